"""Folders that cannot be made are found before anything is computed, and the look leaves nothing behind."""

import pytest

from experiments.settings import config as configs
from experiments.settings import places
from longctx.errors import UserError
from tests.helpers import ROOT


@pytest.mark.parametrize(
    "folder, problem",
    [
        ("/proc/nope/run", "'/proc' cannot be written to"),
        ("{tmp}/file/run", "file' is not a folder (Not a directory)"),
        ("{tmp}/file", "file' is not a folder"),
        ("{tmp}/" + 300 * "x", "cannot be written to (File name too long)"),
        ("{tmp}/gone", "gone' cannot be written to"),
    ],
)
def test_what_the_system_refuses(folder, problem, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError) as caught:
        places.check_folder("--workdir", folder.format(tmp=tmp_path))
    assert problem in str(caught.value) and str(caught.value).startswith("--workdir='")


def test_a_folder_that_can_be_made_is_not_made_yet(tmp_path):
    places.check_folder("--workdir", tmp_path / "a" / "b")
    places.check_file("--out", str(tmp_path / "out.json"))
    assert not list(tmp_path.iterdir())
    for path in (tmp_path, tmp_path / "a" / "out.json"):
        with pytest.raises(UserError, match="cannot be written; give a file"):
            places.check_file("--out", str(path))


def test_a_workdir_is_looked_at_before_the_data(monkeypatch):
    from experiments.run import checks

    monkeypatch.setattr(checks, "_load_data", None)
    config, _ = configs.from_command_line(["train", "--config", str(ROOT / "tests/golden/three_stages.py")])
    with pytest.raises(UserError, match="--workdir='/proc/nope' cannot be used"):
        checks.check(config, "/proc/nope")
