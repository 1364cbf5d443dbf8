"""Settings that were said and that nothing reads are refused, and no others."""

import dataclasses

import pytest

from experiments.settings import config as configs
from experiments.settings import unread
from experiments.settings.tree import ExtendConfig, Settings
from longctx.config import Config, LayerConfig, RopeConfig
from longctx.errors import UserError
from tests.helpers import ROOT

FILE = str(ROOT / "tests/golden/three_stages.py")


def config_of(*overrides) -> Config:
    return configs.from_command_line(["train", "--config", FILE, *(f"--config.{one}" for one in overrides)])[0]


@pytest.mark.parametrize(
    "overrides, says",
    [
        (
            [f"stages[{i}].batch_tokens=8192" for i in range(3)] + ["batch_tokens=4096"],
            "batch_tokens=4096 has no effect:",
        ),
        (["stages[1].augment_length=4096"], "stages[1].augment_length=4096 has no effect: stages[1].augment is 'none'"),
        (
            ["optim.schedule=constant", "optim.final_fraction=0.5"],
            "optim.final_fraction=0.5 has no effect: optim.schedule",
        ),
        (["model.rope.factor=4"], "model.rope.factor=4.0 has no effect: model.rope.scaling is 'none'; 'linear', 'ntk'"),
        (["model.rope.scaling=linear", "model.rope.beta_fast=16"], "rope.scaling is 'linear'; 'yarn' reads it"),
        (["stages[1].rope.long_factors=(1.0,2.0)"], "stages[1].rope.long_factors=(1.0, 2.0) has no effect"),
        (
            ["data.records=messages", "data.text_field=a"],
            "data.text_field='a' has no effect: data.records is 'messages'",
        ),
        (["data.generated_loss=answers"], "data.generated_loss='answers' has no effect: data.generated is empty"),
        (["model.lora.alpha=32"], "model.lora.alpha=32.0 has no effect: model.lora.rank is 0; 16 works"),
        (["model.experts=8"], "model.experts=8 has no effect: model.feed_forward is 'gated'; 'gpt_oss' and 'llama4'"),
    ],
)
def test_what_has_no_effect(overrides, says):
    with pytest.raises(UserError) as caught:
        unread.check(config_of(*overrides))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["batch_tokens=16384"],
        ["data.text_field=a"],
        ["data.generated=('retrieval(0.1)',)", "data.generated_loss=answers"],
        ["stages[0].batch_tokens=4096", "batch_tokens=4096"],
        ["model.rope.factor=4", "stages[2].rope.scaling=yarn", "stages[2].rope.original_length=512"],
        ["model.rope.original_length=512"],
        ["model.feed_forward=gpt_oss", "model.experts=8"],
    ],
)
def test_what_somebody_reads(overrides):
    unread.check(config_of(*overrides))


def test_a_layer_of_a_pattern_reads_for_all():
    model = dataclasses.replace(
        Config().model,
        rope=RopeConfig(factor=2.0),
        pattern=(LayerConfig(rope=RopeConfig(scaling="linear", factor=2.0)), LayerConfig()),
    )
    unread.check(Config(model=model))


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.py")), ids=lambda path: path.stem)
def test_shipped_configs_say_nothing_in_vain(path):
    config = configs.from_command_line(["train", "--config", str(path)])[0]
    unread.check(config)
    unread.check_extend(config)


def test_tunings_that_there_are_not():
    with pytest.raises(UserError, match="extend.tune_steps=7 has no effect: extend.tunings is empty"):
        unread.check_extend(Settings(extend=ExtendConfig(tune_steps=7)))
    unread.check_extend(Settings(extend=ExtendConfig(tune_steps=7, tunings=("ntk",))))
