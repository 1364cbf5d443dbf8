"""A run whose text has changed since its checkpoint is told that, whatever else follows from the change."""

import dataclasses

import pytest

from experiments.run import checks
from experiments.settings import config as configs
from longctx.checkpoints import manifest
from longctx.errors import UserError
from tests.experiments.train_helpers import BOUNDARY, Tiny, ended_well, refusal, rewound
from tests.helpers import ROOT

PLAIN = ROOT / "tests/golden" / "three_stages.py"


def test_a_text_that_lost_a_file_is_not_that_of_the_run(tmp_path):
    """Of a.txt, b.txt and d.txt a holdout of 0.35 holds out d.txt alone."""
    text, workdir = tmp_path / "text", tmp_path / "run"
    text.mkdir()
    for name in ("a.txt", "b.txt", "d.txt"):
        (text / name).write_text("words " * 99)
    config = configs.from_command_line(
        ["command", "--config", str(PLAIN), f"--config.data.path={text}", "--config.data.holdout=0.35"]
    )[0]
    assert checks.check(config, workdir).corpora.held_out[0].name == "d.txt"
    (text / "d.txt").unlink()
    with pytest.raises(UserError, match="^data.holdout=0.35 holds out none of the 2 documents"):
        checks.check(config, workdir)

    step = workdir / configs.CHECKPOINTS / "10"
    (step / "state").mkdir(parents=True)
    manifest.write(step, manifest.Manifest(10, {}, {}, None, {"config": dataclasses.asdict(config)}))
    with pytest.raises(UserError, match="^data.path=.*not the text that the run in --workdir=.*bring the old"):
        checks.check(config, workdir)
    other = dataclasses.replace(config, seed=7)
    with pytest.raises(UserError, match="seed: 0 .checkpoint. != 7 .now."):
        checks.check(other, workdir)
    free = dataclasses.replace(config, data=dataclasses.replace(config.data, ignore=(".json",), bad="skip", prefetch=2))
    with pytest.raises(UserError, match="not the text that"):
        checks.check(free, workdir)


@pytest.mark.slow
def test_a_text_that_changed_between_two_stages(tmp_path):
    tiny = Tiny.write(tmp_path)
    (tmp_path / "text" / "left.png").write_bytes(b"")
    output = ended_well(tiny.train(tmp_path / "finished"))
    assert f"left out of data.path={str(tmp_path / 'text')!r}: 1 file (1 .png)\n" in output
    workdir = rewound(tmp_path / "finished", tmp_path / "run", BOUNDARY)
    (tmp_path / "text" / "new.txt").write_text("more words")
    assert "not the text that this run was trained on" in refusal(tiny.train(workdir))
