"""Settings by their former names: stored runs, config files and command lines that have them still work."""

import dataclasses

import pytest

from experiments.settings import config as configs
from experiments.settings import former
from longctx.config import Config

OLD = {new: old for old, new in former.FIELDS.items()}


def old_names(tree):
    if isinstance(tree, tuple):
        return tuple(map(old_names, tree))
    if not isinstance(tree, dict):
        return tree
    return {OLD.get(name, name): old_names(value) for name, value in tree.items()}


def test_a_stored_run_with_every_former_name_is_the_same_run():
    stored = dataclasses.asdict(Config())
    assert old_names(stored) != stored
    assert configs.from_config_dict(old_names(stored)) == Config()
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


@pytest.mark.parametrize("name", former.FIELDS)
def test_no_setting_has_a_former_name(name):
    groups = [Config(), *(getattr(Config(), field.name) for field in dataclasses.fields(Config))]
    groups = [group for group in groups if dataclasses.is_dataclass(group)]
    assert not any(hasattr(group, name) for group in groups)
    with pytest.raises(AttributeError):
        setattr(configs.defaults().log, name, 1)
