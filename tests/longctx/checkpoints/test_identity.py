"""The check that checkpoints belong to this run, which needs no jax."""

import dataclasses
import json
import subprocess
import sys

import pytest

from longctx import config
from longctx.checkpoints import manifest
from longctx.checkpoints.identity import check_same_run, peek
from longctx.errors import UserError
from tests.helpers import ROOT


def as_dict(**changes):
    return dataclasses.asdict(dataclasses.replace(config.Config(), **changes))


def write_step(directory, step, meta):
    (directory / str(step) / "state").mkdir(parents=True)
    manifest.write(directory / str(step), manifest.Manifest(step, {}, {}, None, meta))


def test_peek_reads_the_newest_readable_meta(tmp_path):
    assert peek(tmp_path / "nothing") is None and peek(tmp_path) is None
    for step in (9, 100, 20):
        write_step(tmp_path, step, {"config": {"seed": step}})
    (tmp_path / "300.orbax-checkpoint-tmp").mkdir()
    (tmp_path / "damaged-00000400").mkdir()
    assert peek(tmp_path) == {"config": {"seed": 100}}
    (tmp_path / "100" / manifest.NAME).write_text('{"sha256": "0", "body": {"meta": 1}}')
    assert peek(tmp_path) == {"config": {"seed": 20}}


def test_needs_no_jax():
    code = (
        "import sys, longctx.checkpoints.identity; "
        "print(sorted(m for m in sys.modules if m in ('jax', 'orbax', 'numpy')))"
    )
    printed = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True, timeout=60)
    assert printed.strip() == "[]"


def test_the_same_configuration_passes_also_as_json_gives_it_back():
    check_same_run(json.loads(json.dumps(as_dict())), as_dict())


def test_free_fields_may_differ():
    check_same_run(
        as_dict(),
        as_dict(
            log=config.LogConfig(every_steps=1),
            mesh=config.MeshConfig(context=4),
            name="b",
            attention=config.AttentionConfig(kernel="chunked", strategy="all_gather"),
        ),
    )


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model": config.ModelConfig(layers=6)}, r"model\.layers: 4 \(checkpoint\) != 6 \(now\)"),
        ({"data": config.DataConfig(path="a")}, r'data\.path: "stdlib" \(checkpoint\) != "a" \(now\)'),
        ({"stages": (config.StageConfig(seq_len=128, steps=100),)}, r"stages\[0\]\.seq_len: 512 \(checkpoint\) != 128"),
        (
            {"stages": (config.StageConfig(steps=100),) * 2},
            r"stages\[1\]\.batch_tokens: absent \(checkpoint\) != 0 \(now\)",
        ),
    ],
)
def test_differing_fields_are_named(changes, message):
    with pytest.raises(UserError, match=message) as caught:
        check_same_run(as_dict(), as_dict(**changes))
    assert "\n" not in str(caught.value)


def test_at_most_five_fields_are_shown():
    before, now = ({f"f{i}": i + shift for i in range(8)} for shift in (0, 1))
    with pytest.raises(UserError, match=r"f4: 4 \(checkpoint\) != 5 \(now\), and 3 more\.") as caught:
        check_same_run(before, now)
    assert "f5" not in str(caught.value)


def test_a_free_name_covers_only_what_is_below_it():
    free = frozenset({"log"})
    check_same_run({"log": {"a": 1}}, {"log": {"a": 2}}, free)
    with pytest.raises(UserError, match="logger: 1"):
        check_same_run({"logger": 1}, {"logger": 2}, free)
