"""Settings by their former names: stored runs, config files and command lines that have them still work."""

import dataclasses

import pytest

from experiments.settings import config as configs
from experiments.settings import former
from experiments.settings.tree import Settings
from longctx.config import DataConfig
from longctx.data.generated import api as generated
from longctx.errors import UserError
from tests.helpers import ROOT

OLD = {new: old for old, new in former.FIELDS.items()}


def old_names(tree):
    if isinstance(tree, tuple):
        return tuple(map(old_names, tree))
    if not isinstance(tree, dict):
        return tree
    return {OLD.get(name, name): old_names(value) for name, value in tree.items()}


def test_a_stored_run_with_every_former_name_is_the_same_run():
    stored = dataclasses.asdict(Settings())
    assert old_names(stored) != stored
    assert configs.from_config_dict(old_names(stored)) == Settings()
    assert former.renamed(old_names(stored)) == stored


def test_a_former_name_sets_the_field_and_is_told_once(capsys, monkeypatch):
    monkeypatch.setattr(former, "_noted", set())
    tree = configs.defaults()
    tree.model.embed = 64
    tree.model.update(embed=128, key_heads=1)
    tree.attention.kernel = "mosaic"
    tree.stages = (configs.stage(seq_len=8, steps=1, rope=configs.rope(base=3e4)),)
    assert (tree.model.d_model, tree.model.kv_heads, tree.attention.kernel) == (128, 1, "mosaic_gpu")
    assert tree.stages[0].rope.theta == 3e4 and tree.model.explicit >= {"d_model", "kv_heads"}
    assert capsys.readouterr().err.count("note: the setting embed is called d_model now") == 1


def test_a_stored_run_with_shares_of_generated_tasks_is_the_same_run():
    stored = dataclasses.asdict(Settings())
    del stored["data"]["generated"]
    for shares, entries in (
        ({"passkey_share": 0.5, "copy_share": 0.2}, ("passkey(0.5)", "copying(0.2)")),
        ({"copy_share": 1e-05, "passkey_share": 0.0}, ("copying(0.00001)",)),
        ({"passkey_share": 0.0, "copy_share": 0.0}, ()),
    ):
        tree = stored | {"data": stored["data"] | shares}
        assert configs.from_config_dict(tree) == Settings(data=DataConfig(generated=entries))
        tasks = generated.parse(entries).values()
        assert [task.share for task in tasks] == sorted((s for s in shares.values() if s), reverse=True)


def test_a_share_of_before_sets_an_entry_of_data_generated(capsys, monkeypatch):
    monkeypatch.setattr(former, "_noted", set())
    tree = configs.defaults()
    tree.data.update(copy_share=0.2, passkey_share=0.25)
    tree.data.passkey_share *= 2
    assert tree.data.generated == ("passkey(0.5)", "copying(0.2)") and tree.data.copy_share == 0.2
    assert "generated" in tree.data.explicit
    assert capsys.readouterr().err.count("note: the setting passkey_share is an entry of data.generated now") == 1
    tree.data.copy_share = 0.0
    assert configs.from_config_dict(tree).data.generated == ("passkey(0.5)",)
    with pytest.raises(AttributeError):
        configs.defaults().eval.passkey_share = 0.5


def test_shares_of_before_on_the_command_line():
    argv = ["command", "--config", str(ROOT / "configs" / "quickstart.py")]
    parsed = lambda *more: configs.from_command_line([*argv, *more])[0].data.generated
    assert parsed() == ("passkey(0.5)", "copying(0.2)")
    assert parsed("--config.data.passkey_share=0.3") == ("passkey(0.3)", "copying(0.2)")
    assert parsed("--config.data.passkey_share=0") == ("copying(0.2)",)
    assert parsed("--config.data.generated=('copying(0.1)',)") == ("copying(0.1)",)
    assert parsed("--config.data.generated=()") == ()
    with pytest.raises(UserError, match="data.passkey_share='x' must be float"):
        parsed("--config.data.passkey_share=x")


def test_tensorboard_was_a_switch(capsys, monkeypatch):
    monkeypatch.setattr(former, "_noted", set())
    argv = ["command", "--config", str(ROOT / "configs" / "quickstart.py")]
    parsed = lambda *more: configs.from_command_line([*argv, *more])[0].log.trackers
    assert parsed() == parsed("--config.log.tensorboard") == ("tensorboard",)
    assert parsed("--config.log.tensorboard=False") == parsed("--noconfig.log.tensorboard") == ()
    assert capsys.readouterr().err.count("note: the setting tensorboard is an entry of log.trackers now") == 1
    tree = configs.defaults()
    tree.log.trackers = ("wandb",)
    tree.log.tensorboard = True
    assert tree.log.trackers == ("wandb", "tensorboard") and "trackers" in tree.log.explicit
    stored = dataclasses.asdict(Settings())
    del stored["log"]["trackers"]
    for on, trackers in ((True, ("tensorboard",)), (False, ())):
        tree = stored | {"log": stored["log"] | {"tensorboard": on}}
        assert configs.from_config_dict(tree).log.trackers == trackers


@pytest.mark.parametrize("name", [*former.FIELDS, *former.ENTRIES])
def test_no_setting_has_a_former_name(name):
    groups = [Settings(), *(getattr(Settings(), field.name) for field in dataclasses.fields(Settings))]
    groups = [group for group in groups if dataclasses.is_dataclass(group)]
    assert not any(hasattr(group, name) for group in groups)
    with pytest.raises(AttributeError):
        setattr(configs.defaults().optim, name, 1)
