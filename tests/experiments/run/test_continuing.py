"""A run may be lengthened, and its stages that have not begun may change; what is behind may not."""

import dataclasses

import pytest

from experiments.run import checks, continuing
from experiments.settings import config as configs
from longctx.checkpoints import manifest
from longctx.config import Config, DataConfig, MeshConfig, OptimConfig, SourceConfig, StageConfig
from longctx.errors import UserError
from tests.experiments.settings.test_bad_input import FILE
from tests.experiments.train_helpers import (
    STEPS,
    Tiny,
    assert_same_bits,
    ended_well,
    losses,
    refusal,
    saved_state,
    saved_steps,
)

FIRST, SECOND = StageConfig(seq_len=512, steps=40), StageConfig(seq_len=2048, steps=100)
FLAT = OptimConfig(schedule="constant")


def of(*stages, **settings) -> Config:
    return Config(**{"stages": stages, "optim": FLAT} | settings)


def steps(stage: StageConfig, steps: int, **settings) -> StageConfig:
    return dataclasses.replace(stage, steps=steps, **settings)


BEFORE = of(FIRST, SECOND)


@pytest.mark.parametrize("step", [140, 139, 41])
def test_the_last_stage_may_be_lengthened_when_it_has_ended_and_before(step):
    assert continuing.check(BEFORE, of(FIRST, steps(SECOND, 200)), step) == ["stage 2 now has 200 steps, was 100"]
    tokens = dataclasses.replace(SECOND, steps=0, tokens=8192 * 150)
    assert continuing.check(BEFORE, of(FIRST, tokens), step) == ["stage 2 now has 150 steps, was 100"]


def test_what_follows_for_the_learning_rate_is_said():
    before, now = (of(FIRST, steps(SECOND, n), optim=OptimConfig()) for n in (100, 200))
    (line,) = continuing.check(before, now, 140)
    assert line.endswith("was 100; the learning rate goes on by optim.schedule='cosine' over 240 steps")
    before, now = (of(FIRST, steps(SECOND, n, lr="restart"), optim=OptimConfig()) for n in (100, 200))
    assert continuing.check(before, now, 140)[0].endswith("by optim.schedule='cosine' over 200 steps")


def test_a_run_that_is_as_it_was_is_told_nothing():
    assert continuing.check(BEFORE, BEFORE, 77) == []
    assert continuing.check(BEFORE, dataclasses.replace(BEFORE, mesh=MeshConfig(data=2)), 77) == []
    same = of(*(dataclasses.replace(stage, batch_tokens=8192) for stage in (FIRST, SECOND)), batch_tokens=4096)
    assert continuing.check(BEFORE, same, 77) == []  # both stages have the tokens that they had


def test_stages_ahead_may_change_in_every_way():
    other = StageConfig(seq_len=4096, steps=100, batch_tokens=16384, lr="rewarm")
    has_not_begun = "stage 2, which has not begun, has other settings now"
    assert continuing.check(BEFORE, of(FIRST, other), 40) == [has_not_begun]
    new = "stage 3 is new: 100 steps of 16,384 tokens"
    assert continuing.check(BEFORE, of(FIRST, SECOND, other), 140) == [new]
    assert continuing.check(BEFORE, of(steps(FIRST, 30), other), 20) == [
        "stage 1 now has 30 steps, was 40",
        has_not_begun,
    ]
    assert continuing.check(BEFORE, of(FIRST), 40) == ["stage 2 is left out"]


@pytest.mark.parametrize(
    "now, step, message",
    [
        (of(steps(FIRST, 50), SECOND), 41, r"^stages\[0\].steps: 40 .checkpoint. != 50 .now., and stage 2 has begun"),
        (of(FIRST, SECOND, batch_tokens=16384), 41, r"^stages\[0\].batch_tokens: 8192 .checkpoint. != 16384 .now."),
        (of(FIRST, steps(SECOND, 100, batch_tokens=16384)), 140, r"^stages\[1\].*a new stages\[2\] may have other"),
        (
            of(steps(FIRST, 40, seq_len=256), SECOND),
            1,
            r"^stages\[0\].seq_len.*stage 1 has begun: the run is at step 1",
        ),
        (of(FIRST, steps(SECOND, 30)), 90, r"^stages\[1\] has 30 steps, and the run took 50 of it; as many work"),
        (of(FIRST), 41, r"^stages has 1 entries, and stage 2 has begun: the run is at step 41; 2 or more work"),
        (of(FIRST, SECOND, seed=7), 41, r"another run: seed: 0 .checkpoint. != 7 .now."),
    ],
)
def test_what_is_behind_may_not_change(now, step, message):
    with pytest.raises(UserError, match=message):
        continuing.check(BEFORE, now, step)


@pytest.mark.parametrize(
    "more, message",
    [
        ({"order": "grow_p2(8)"}, r"order='grow_p2\(8\)' orders its rows over its steps, .* a new stages\[2\] works"),
        ({"window": "linear(32, 0.6)"}, r"window='linear\(32, 0.6\)' grows over its steps"),
    ],
)
def test_what_is_planned_over_the_steps_of_a_stage_keeps_them(more, message):
    before, now, longer = (
        of(FIRST, steps(SECOND, n, **more), *rest) for n, rest in ((100, ()), (200, ()), (100, (FIRST,)))
    )
    with pytest.raises(UserError, match=rf"^stages\[1\] has 200 steps, was 100, and .*{message}"):
        continuing.check(before, now, 140)
    assert continuing.check(before, longer, 140) == ["stage 3 is new: 40 steps of 8,192 tokens"]
    assert continuing.check(before, now, 40) == ["stage 2 now has 200 steps, was 100"]  # it has not begun


def test_mixed_sources_keep_the_steps_of_their_stage_and_with_a_cap_those_of_the_run():
    plain, capped = (DataConfig(mix=(SourceConfig("a", "A", cap=cap), SourceConfig("b", "B"))) for cap in (0.0, 2.0))
    with pytest.raises(UserError, match="data.mix shares out 2 sources over its steps"):
        continuing.check(of(FIRST, data=plain), of(steps(FIRST, 50), data=plain), 40)
    assert continuing.check(of(FIRST, data=plain), of(FIRST, SECOND, data=plain), 40)
    with pytest.raises(UserError, match=r"a cap of data.mix counts epochs of the whole run.*init_from=FOLDER"):
        continuing.check(of(FIRST, data=capped), of(FIRST, SECOND, data=capped), 40)


# ---- --resume


@pytest.mark.parametrize(
    "words, found",
    [
        ([], continuing.NEWEST),
        (["--resume", "120"], continuing.Resume(120)),
        (["--resume=never"], continuing.Resume(never=True)),
    ],
)
def test_resume_is_taken_out_of_the_command_line(words, found):
    assert continuing.asked(["train", *words, "--config", "a.py"]) == (found, ["train", "--config", "a.py"])


@pytest.mark.parametrize("value", ["", "-1", "newest", "1.5", "\u0661"])
def test_what_resume_does_not_take_is_refused(value):
    with pytest.raises(UserError, match=f"^--resume={value!r} must be a step .*'never'"):
        continuing.asked(["train", "--resume", value])


def saved(directory, step: int, config) -> None:
    (directory / str(step) / "state").mkdir(parents=True)
    meta = {"config": dataclasses.asdict(config), "stage": 0}
    manifest.write(directory / str(step), manifest.Manifest(step, {}, {}, None, meta))


def test_a_step_to_go_back_to_must_be_there(tmp_path):
    with pytest.raises(UserError, match=r"--resume=7 is no step in .*; there are none\."):
        continuing.sealed(tmp_path, continuing.Resume(7))
    for step in (10, 20):
        saved(tmp_path, step, BEFORE)
    assert continuing.sealed(tmp_path, continuing.NEWEST).step == 20
    assert continuing.sealed(tmp_path, continuing.Resume(10)).step == 10
    assert continuing.sealed(tmp_path, continuing.Resume(never=True)) is None
    (tmp_path / "10" / manifest.NAME).write_text("{")
    for step, message in ((7, "there are 20, 10"), (10, r"is damaged \(MANIFEST.json cannot be read")):
        with pytest.raises(UserError, match=f"--resume={step} .*{message}"):
            continuing.sealed(tmp_path, continuing.Resume(step))


def test_a_start_is_checked_against_the_step_that_it_goes_back_to(tmp_path):
    settings = lambda *more: configs.from_command_line(["command", *FILE, *more])[0]
    config, other = settings(), "--config.seed=7"
    saved(tmp_path / configs.CHECKPOINTS, 10, config)
    saved(tmp_path / configs.CHECKPOINTS, 20, settings(other))
    with pytest.raises(UserError, match="seed: 7 .checkpoint. != 0 .now..*--resume=never, to start again"):
        checks.check(config, tmp_path)
    assert checks.check(config, tmp_path, continuing.Resume(10)).notes == ()
    assert checks.check(settings("--config.seed=8"), tmp_path, continuing.Resume(never=True)).stages


def test_starting_over_needs_the_folder_that_the_run_began_from(tmp_path):
    config = dataclasses.replace(configs.from_command_line(["command", *FILE])[0], init_from=str(tmp_path / "gone"))
    saved(tmp_path / configs.CHECKPOINTS, 10, config)
    with pytest.raises(UserError, match="init_from='.*gone' does not exist"):
        checks.check(config, tmp_path, continuing.Resume(never=True))


def test_the_check_of_a_start_gives_the_lines_and_names_the_workdir(tmp_path):
    config = configs.from_command_line(["command", *FILE])[0]
    last = len(config.stages) - 1
    end = sum(stage.steps for stage in config.stages)
    step = tmp_path / configs.CHECKPOINTS / str(end)
    (step / "state").mkdir(parents=True)
    manifest.write(step, manifest.Manifest(end, {}, {}, None, {"config": dataclasses.asdict(config), "stage": last}))
    start = lambda change: checks.check(configs.from_command_line(["command", *FILE, change])[0], tmp_path)
    had = config.stages[last].steps
    (line,) = start(f"--config.stages[{last}].steps={had + 10}").notes
    assert line.startswith(f"stage {last + 1} now has {had + 10} steps, was {had}; the learning rate goes on by")
    with pytest.raises(UserError, match=rf"^--workdir='{tmp_path}': stages\[{last}\] has 1 steps, and the run took"):
        start(f"--config.stages[{last}].steps=1")


@pytest.mark.slow
def test_a_lengthened_run_is_the_run_of_that_length(tmp_path):
    """Its moments, its place in the data and its rows go on bit for bit, where the learning rate is the same."""
    tiny, same_rate = Tiny.write(tmp_path), ("optim.schedule=constant", "stages[1].lr=continue")
    ended_well(tiny.train(tmp_path / "whole", *same_rate))
    ended_well(tiny.train(tmp_path / "run", *same_rate, "stages[1].steps=3"))
    longer = ended_well(tiny.train(tmp_path / "run", *same_rate))
    assert "\nstage 2 now has 8 steps, was 3\n" in longer and f"continuing at step 15 of {STEPS}\n" in longer
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    assert saved_steps(tmp_path / "run")[0] == STEPS
    assert_same_bits(saved_state(tmp_path / "run"), saved_state(tmp_path / "whole"))
    assert "a new stages[2] may have" in refusal(tiny.train(tmp_path / "run", *same_rate, "batch_tokens=512"))

    back = ended_well(tiny.python(*tiny.command(tmp_path / "run", *same_rate), "--resume", "12"))
    assert "\nset aside: aside-00000020, aside-00000016, aside-00000015\n" in back and "continuing at step 12" in back
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    short = ("stages[0].steps=2", "stages[1].steps=1", "seed=1")
    over = ended_well(tiny.python(*tiny.command(tmp_path / "run", *short), "--resume", "never"))
    assert "continuing" not in over and "metrics.jsonl of an earlier start is now metrics-1.jsonl" in over
    assert [step for step, *_ in losses(tmp_path / "run")] == [1, 2, 3] and saved_steps(tmp_path / "run") == [3, 2, 1]
