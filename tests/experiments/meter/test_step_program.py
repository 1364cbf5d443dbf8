"""Progress messages while a step is compiled, and the error where it does not fit."""

import io
import re

import jax
import pytest

from experiments.hardware.targets import CHIPS, Target
from experiments.meter import step_program
from experiments.planner import plan, search
from experiments.settings import console
from longctx import meshes
from longctx.config import Config, MeshConfig, ModelConfig, StageConfig
from longctx.data import curriculum
from longctx.errors import UserError

SAID = (
    "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (21.96G) exceeds "
    "available HBM (15.75G)."
)
CONFIG = Config(
    model=ModelConfig(layers=2, d_model=64, mlp_dim=64, head_dim=8, vocab_size=64),
    mesh=MeshConfig(context=2),
    stages=(StageConfig(seq_len=65536, steps=1),),
    batch_tokens=65536,
)


class Lowered:
    """A lowered program whose compilation fails with a given message."""

    def __init__(self, said):
        self.said = said

    def compile(self):
        raise jax.errors.JaxRuntimeError(self.said)


@pytest.fixture
def refused(monkeypatch):
    """The compiler refuses everything with these words."""

    def says(said):
        monkeypatch.setattr(step_program.training, "trace_step", lambda *args: None)
        monkeypatch.setattr(step_program.training, "lowered", lambda *args: Lowered(said))
        monkeypatch.setattr(step_program.targets, "compiled", Lowered.compile)
        return Target("v5e:1x2", CHIPS["v5e"], jax.devices()[:2], "tpu")

    return says


def compiled(target):
    stages = curriculum.plan(CONFIG)
    return step_program.compiled(CONFIG, stages[0], stages, meshes.make(CONFIG.mesh), target)


def test_a_step_that_does_not_fit_is_one_line(refused):
    with pytest.raises(UserError) as caught:
        compiled(refused(SAID + "\nAnd forty lines more."))
    assert str(caught.value) == (
        "a step of 1 x 65,536 tokens does not fit v5e:1x2: beside 0.00 GiB of weights and moments it takes 21.96 of a "
        "device, which has 15.75; rows of about 47,002 tokens (predicted from these numbers) or model.remat="
        "'offload_layer' may fit, and experiments.plan finds what fits with --find-max-length and --compare=levers."
    )
    with pytest.raises(UserError, match="does not fit v5e:1x2: RESOURCE_EXHAUSTED: other words. experiments.plan"):
        compiled(refused("RESOURCE_EXHAUSTED: other words."))


def test_a_plan_of_it_says_what_the_compiler_said(refused):
    found = search.plan_of(CONFIG, refused(SAID))
    assert isinstance(found, plan.Plan) and not found.fits and found.refused == SAID


def test_another_error_of_a_compiler_keeps_its_traceback(refused):
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        compiled(refused("INTERNAL: a bug"))


def test_phases_are_said_on_stderr_when_they_begin_and_end(refused, capsys):
    with pytest.raises(UserError):
        compiled(refused(SAID))
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert said.out == "" and lines[0] == "tracing ..." and lines[1].startswith("tracing: 0.")
    assert lines[2] == "lowering for tpu ..." and lines[4] == "compiling for 2 devices of v5e:1x2 ..." == lines[-1]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_phase_on_a_terminal_leaves_one_line():
    stream = Terminal()
    with console.phase("compiling [bold]", stream):
        pass
    assert re.search(r"\x1b\[2Kcompiling \[bold\]: \d\.\d s\n$", stream.getvalue()) and "..." not in stream.getvalue()


def test_a_phase_of_known_size_shows_how_much_is_done():
    stream = Terminal()
    with console.phase("reading", stream, size=4_000_000) as passed:
        passed(1_000_000)
        passed(3_000_000)
    assert "4.0/4.0 MB" in stream.getvalue()
    with console.phase("reading", plain := io.StringIO(), size=7) as passed:
        passed(7)
    assert re.fullmatch(r"reading \.\.\.\nreading: \d\.\d s\n", plain.getvalue())
