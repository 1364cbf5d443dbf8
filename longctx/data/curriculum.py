"""The curriculum: stages of growing length, resolved to steps and batch sizes. Free of jax."""

import bisect
import dataclasses

from longctx.config import Config, RopeConfig, StageConfig
from longctx.errors import UserError


@dataclasses.dataclass(frozen=True)
class Stage:
    """A resolved stage: `steps` steps from first_step of the run on, each of batch_size rows of seq_len tokens.

    part: its part of all tokens of the run. joined: how many rows are one row to the mesh, see attention.across_rows.
    """

    index: int
    first_step: int
    steps: int
    seq_len: int
    batch_size: int
    rope: RopeConfig
    lr: str
    lr_scale: float
    augment: str = "none"
    augment_length: int = 0
    window: str = "none"
    order: str = "shuffled"
    mix: tuple[str, ...] = ()
    part: float = 1.0
    joined: int = 1

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, tokens of each) of the arrays of a batch."""
        return self.batch_size // self.joined, self.seq_len * self.joined

    @property
    def program(self) -> tuple:
        """What the compiled step of a run depends on: stages with the same share one."""
        return self.shape, self.seq_len, self.rope, self.augment, self.augment_length

    @property
    def batch_tokens(self) -> int:
        return self.batch_size * self.seq_len

    @property
    def end_step(self) -> int:
        """The step after the last one."""
        return self.first_step + self.steps


def plan(config: Config) -> tuple[Stage, ...]:
    """The stages of a run, in order. Raises UserError for a stage whose numbers do not work out, naming what would."""
    if not config.stages:
        raise UserError("stages=() is empty; a run needs at least one, such as StageConfig(seq_len=512, steps=100).")
    stages, first = [], 0
    parallel = config.mesh.data * config.mesh.fsdp * config.memory.grad_accumulation
    for index, stage in enumerate(config.stages):
        batch_size = _batch_size(config, index, stage)
        steps = _steps(index, stage, batch_size * stage.seq_len)
        rope = config.model.rope if stage.rope is None else stage.rope
        stages.append(
            Stage(
                index,
                first,
                steps,
                stage.seq_len,
                batch_size,
                rope,
                stage.lr,
                stage.lr_scale,
                stage.augment,
                stage.augment_length,
                stage.window,
                stage.order,
                stage.mix,
                joined=batch_size // parallel if config.attention.across_rows else 1,
            )
        )
        first += steps
    if config.attention.across_rows and all(stage.joined == 1 for stage in stages):
        raise UserError(
            f"attention.across_rows: mesh.data={config.mesh.data} x mesh.fsdp={config.mesh.fsdp} ranks take one of the "
            f"{stages[-1].batch_size} rows of a step at a time, so there are none to join; mesh.context_outer in place "
            "of mesh.data lets them."
        )
    total = sum(stage.steps * stage.batch_tokens for stage in stages)
    return tuple(dataclasses.replace(stage, part=stage.steps * stage.batch_tokens / total) for stage in stages)


def total_steps(stages: tuple[Stage, ...]) -> int:
    """Steps of the whole curriculum."""
    return stages[-1].end_step


def stage_at(stages: tuple[Stage, ...], step: int) -> Stage:
    """The stage that a step (counted from 0 over the whole run) belongs to; the last one after the end."""
    if step < 0:
        raise ValueError(f"step {step} is negative.")
    return stages[bisect.bisect_right([stage.first_step for stage in stages], step) - 1]


def _batch_size(config: Config, index: int, stage: StageConfig) -> int:
    """Rows per step. All steps have batch_tokens tokens, split evenly over the devices that hold different rows."""
    if stage.seq_len < 1:
        raise UserError(f"stages[{index}].seq_len={stage.seq_len} must be at least 1.")
    own = stage.batch_tokens != 0
    name = f"stages[{index}].batch_tokens" if own else "batch_tokens"
    tokens = stage.batch_tokens if own else config.batch_tokens
    shards, parts = config.mesh.data * config.mesh.fsdp, config.memory.grad_accumulation
    if parts < 1:
        raise UserError(f"memory.grad_accumulation={parts} must be at least 1.")
    unit = stage.seq_len * shards * parts
    if tokens < 1 or tokens % unit:
        below = tokens // unit * unit
        legal = f"{below} or {below + unit}" if below > 0 else f"{unit}"
        by_mesh = f" * mesh.data*mesh.fsdp={shards}" if shards > 1 else ""
        by_mesh += f" * memory.grad_accumulation={parts}" if parts > 1 else ""
        raise UserError(
            f"{name}={tokens} is not a multiple of stages[{index}].seq_len={stage.seq_len}{by_mesh}; "
            f"{legal} would work."
        )
    return tokens // stage.seq_len


def _steps(index: int, stage: StageConfig, batch_tokens: int) -> int:
    given = f"stages[{index}] has steps={stage.steps} and tokens={stage.tokens}"
    if stage.steps < 0 or stage.tokens < 0:
        raise UserError(f"{given}; neither can be negative.")
    if (stage.steps > 0) == (stage.tokens > 0):
        raise UserError(f"{given}; give exactly one of them, such as steps=100 or tokens={100 * batch_tokens}.")
    return stage.steps or -(-stage.tokens // batch_tokens)
