import dataclasses

import pytest

from longctx.config import Config, MeshConfig, RopeConfig, StageConfig
from longctx.data import curriculum
from longctx.errors import UserError


def message(config: Config) -> str:
    with pytest.raises(UserError) as error:
        curriculum.plan(config)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_stages_follow_each_other_with_equal_tokens_per_step():
    rope = RopeConfig(theta=1e6, scaling="yarn", factor=4.0)
    config = Config(
        batch_tokens=8192,
        stages=(
            StageConfig(seq_len=512, steps=10),
            StageConfig(seq_len=2048, tokens=8192 * 3 + 1, lr="rewarm", lr_scale=0.5),
            StageConfig(seq_len=8192, steps=2, batch_tokens=16384, rope=rope),
        ),
    )
    stages = curriculum.plan(config)
    assert [(s.index, s.first_step, s.steps, s.seq_len, s.batch_size) for s in stages] == [
        (0, 0, 10, 512, 16),
        (1, 10, 4, 2048, 4),
        (2, 14, 2, 8192, 2),
    ]
    assert [s.batch_tokens for s in stages] == [8192, 8192, 16384]
    assert (stages[1].lr, stages[1].lr_scale) == ("rewarm", 0.5)
    assert stages[0].rope == stages[1].rope == config.model.rope and stages[2].rope == rope
    assert curriculum.total_steps(stages) == 16


def test_stage_at_every_boundary():
    stages = curriculum.plan(Config(stages=tuple(StageConfig(steps=n) for n in (3, 1, 2))))
    assert [curriculum.stage_at(stages, step).index for step in range(8)] == [0, 0, 0, 1, 2, 2, 2, 2]
    with pytest.raises(ValueError, match="negative"):
        curriculum.stage_at(stages, -1)


@pytest.mark.parametrize("mesh", [MeshConfig(), MeshConfig(data=2), MeshConfig(data=2, fsdp=3, context=7, tensor=5)])
@pytest.mark.parametrize("own", [False, True])
def test_a_batch_that_does_not_divide_names_ones_that_do(mesh, own):
    stage = StageConfig(seq_len=3000, steps=1, batch_tokens=20_000 if own else 0)
    config = Config(batch_tokens=20_000, mesh=mesh, stages=(StageConfig(seq_len=1, steps=1, batch_tokens=60), stage))
    text = message(config)
    name = "stages[1].batch_tokens" if own else "batch_tokens"
    assert text.startswith(f"{name}=20000") and "stages[1].seq_len=3000" in text
    legal = [int(word) for word in text.split("; ")[1].split() if word.isdigit()]
    assert legal
    for tokens in legal:
        changed = (dataclasses.replace(stage, batch_tokens=tokens),)
        (planned,) = curriculum.plan(dataclasses.replace(config, stages=changed))
        assert planned.batch_size % (mesh.data * mesh.fsdp) == 0


def test_nearest_batch_on_both_sides():
    text = message(Config(batch_tokens=8192, stages=(StageConfig(seq_len=3000, steps=1),)))
    assert "6000 or 9000 would work" in text
    text = message(Config(batch_tokens=512, stages=(StageConfig(seq_len=3000, steps=1),)))
    assert "; 3000 would work" in text


@pytest.mark.parametrize(
    "fields, reason",
    [
        ({}, "exactly one"),
        ({"steps": 1, "tokens": 1}, "exactly one"),
        ({"steps": -1}, "negative"),
        ({"tokens": -5}, "negative"),
        ({"steps": 1, "seq_len": 0}, "stages[1].seq_len=0"),
        ({"steps": 1, "batch_tokens": -512}, "stages[1].batch_tokens=-512"),
    ],
)
def test_stages_that_cannot_run(fields, reason):
    text = message(Config(stages=(StageConfig(steps=1), StageConfig(**fields))))
    assert "stages[1]" in text and reason in text


def test_no_stages():
    assert "stages=()" in message(Config(stages=()))


def test_stages_share_a_program_that_differ_in_what_is_fed_only():
    """Steps, windows, orders and learning rates are no part of a compiled step; lengths, RoPE and augmentations are."""
    alike = StageConfig(seq_len=64, steps=3), StageConfig(seq_len=64, steps=5, window="linear(8, 0.5)", lr_scale=0.1)
    unlike = [
        StageConfig(seq_len=128, steps=3),
        StageConfig(seq_len=64, steps=3, batch_tokens=64),
        StageConfig(seq_len=64, steps=3, rope=RopeConfig(theta=1e6)),
        StageConfig(seq_len=64, steps=3, augment="pose", augment_length=256),
    ]
    programs = [stage.program for stage in curriculum.plan(Config(batch_tokens=128, stages=(*alike, *unlike)))]
    assert programs[0] == programs[1] and len(set(programs)) == 1 + len(unlike)
