"""Conversations through the commands: what is shown of them, and a recipe that trains on them."""

import json

import numpy as np
import pytest

from experiments import data
from longctx.errors import UserError
from tests.experiments.train_helpers import ended_well, steps
from tests.helpers import ROOT
from tests.longctx.data import test_conversations as conversations

RECIPE = f"--config={ROOT / 'configs/recipes/sft_long.py'}:chat,lora=0,smoke"


@pytest.fixture
def given(tmp_path) -> list[str]:
    """The arguments that name a file of conversations, one of them long, and the folder of a tokenizer."""
    with open(tmp_path / "chat.jsonl", "w") as file:
        for i in range(20):
            report = f"Report {i}: " + "sales rose. " * (40 if i == 7 else 1)
            turns = [
                ("user", report + "Did they?"),
                ("assistant", "They did."),
                ("user", "And?"),
                ("assistant", f"{i}%."),
            ]
            file.write(json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]}) + "\n")
    folder = conversations.folder(tmp_path / "model", conversations.CHATML)
    return [f"--config.data.path={tmp_path / 'chat.jsonl'}", f"--config.data.tokenizer={folder}"]


def test_answers_are_what_is_shown_to_count(tmp_path, given, capsys):
    data.main(["data", RECIPE, *given, f"--workdir={tmp_path / 'out'}"])
    said = capsys.readouterr().out
    assert "\n]They did.<|im_end|>[\n<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\n]" in said
    assert "%.<|im_end|>[\n</s>]" in said
    assert "data.too_long='middle', text at 128: 0 documents left out" in said
    with pytest.raises(UserError, match="data.too_long='midle' is not known. Did you mean 'middle'"):
        data.main(["data", RECIPE, *given, "--config.data.too_long=midle"])


@pytest.mark.slow
def test_a_recipe_trains_on_conversations(tiny, tmp_path, given):
    small = ["--config.model.layers=1", "--config.log.trackers=()", "--config.checkpoint.every_steps=2"]
    done = tiny.python("-m", "experiments.train", RECIPE, *given, *small, f"--workdir={tmp_path / 'run'}")
    assert "tokens left out (data.packing, data.too_long)" in ended_well(done)
    assert len(steps(tmp_path / "run")) == 2
    assert all(np.isfinite(record["loss"]) and record["skipped"] == 0 for record in steps(tmp_path / "run"))
