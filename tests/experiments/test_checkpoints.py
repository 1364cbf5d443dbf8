"""The command that lists, verifies, repairs and prunes checkpoints, on small trees of files that no run has made."""

import dataclasses
import os
import re
import subprocess
import sys

import pytest

from experiments import checkpoints
from longctx import config as settings
from longctx import locks
from longctx.checkpoints import manifest
from longctx.errors import UserError
from tests.helpers import ROOT

STAGES = settings.StageConfig(seq_len=512, steps=25), settings.StageConfig(seq_len=2048, steps=100)
CONFIG = settings.Config(stages=STAGES, mesh=settings.MeshConfig(context=4, data=2))


def write_step(directory, step, since=1, meta=None, text="weights"):
    state = directory / str(step) / "state"
    state.mkdir(parents=True)
    (state / "arrays").write_text(text * 1000)
    (state / "names").write_text("names")
    meta = {"config": dataclasses.asdict(CONFIG), "stage": int(step > 25)} if meta is None else meta
    manifest.write(directory / str(step), manifest.Manifest(step, {}, {}, None, meta, since))


@pytest.fixture
def workdir(tmp_path):
    """A workdir with sound steps 10 to 50, of which 20 is kept for good."""
    for step in (10, 20, 30, 40, 50):
        write_step(tmp_path / "checkpoints", step, since=int(step != 20))
    return tmp_path


def flip(workdir, step):
    """Changes a byte, and no size, of a step."""
    path = workdir / "checkpoints" / str(step) / "state" / "arrays"
    path.write_bytes(b"W" + path.read_bytes()[1:])


def damage(workdir):
    """A step with a byte that changed, one without a file, a save and a deletion cut short, one set aside before."""
    directory = workdir / "checkpoints"
    flip(workdir, 50)
    (directory / "30" / "state" / "arrays").unlink()
    (directory / "60.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    (directory / "deleting-00000005").mkdir()
    (directory / "damaged-00000007").mkdir()


def names(workdir):
    return sorted(path.name for path in (workdir / "checkpoints").iterdir() if path.name != locks.NAME)


def said(capsys, *argv) -> list[str]:
    """The lines on stdout."""
    checkpoints.main(["checkpoints", *map(str, argv)])
    return capsys.readouterr().out.splitlines()


def refused(*argv) -> str:
    with pytest.raises(UserError) as caught:
        checkpoints.main(["checkpoints", *map(str, argv)])
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- list


def test_the_table_says_what_is_there_and_where_the_next_start_continues(workdir, capsys):
    damage(workdir)
    before = names(workdir)
    lines = said(capsys, workdir)
    cells = {line.split()[0]: re.split(r" {2,}", line.strip()) for line in lines[2:] if line}
    assert cells["50"][1:3] == ["sound", "0.0 MB"] and re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", cells["50"][3])
    assert cells["50"][4:] == ["2", "2,048", "data 2, context 4", "the next start continues here"]
    assert cells["30"][1] == "damaged" and cells["30"][-1] == "state/arrays is missing"
    assert cells["20"][4:] == ["1", "512", "data 2, context 4", "kept for good"]
    assert cells["60"][1] == "unfinished" and cells["7"][1] == "set aside" and cells["7"][-1] == "damaged-00000007"
    assert [line.split()[0] for line in lines[2:-2]] == ["60", "50", "40", "30", "20", "10", "7", "-"]
    assert "--verify reads every byte" in lines[-1] and names(workdir) == before
    assert said(capsys, workdir, "--list") == lines


def test_the_table_takes_manifests_that_say_nothing_of_a_run(tmp_path, capsys):
    for step, meta in enumerate(({}, {"stage": 9, "config": {"stages": [], "mesh": 3}}, {"config": None})):
        write_step(tmp_path / "checkpoints", step, meta=meta)
    assert [line.split()[6:9] for line in said(capsys, tmp_path)[2:5]] == [["-"] * 3, ["10", "-", "-"], ["-"] * 3]


def test_an_empty_directory_is_no_error(tmp_path, capsys):
    (tmp_path / "checkpoints").mkdir()
    assert "holds no checkpoint yet" in said(capsys, tmp_path)[0]
    assert said(capsys, tmp_path, "--repair") == ["nothing to repair"]


# ---- verify


def test_every_damaged_file_is_named_and_the_exit_code_is_1(workdir, capsys):
    damage(workdir)
    before = names(workdir)
    with pytest.raises(SystemExit) as ended:
        said(capsys, workdir, "--verify")
    lines = capsys.readouterr().out.splitlines()
    assert ended.value.code == 1 and names(workdir) == before
    assert lines[0] == "step 50 is damaged: state/arrays has changed since it was written (SHA-256 differs)"
    assert lines[1] == "step 30 is damaged: state/arrays is missing"
    assert lines[2].startswith("3 sound steps (") and "2 damaged, 2 unfinished" in lines[2] and "step 40;" in lines[2]


def test_what_is_sound_is_exit_code_0(workdir, capsys):
    with pytest.raises(SystemExit) as ended:
        said(capsys, workdir, "--verify")
    assert ended.value.code == 0 and "5 sound steps" in capsys.readouterr().out


# ---- repair


def test_repair_sets_damage_aside_and_leaves_the_newest_sound_step(workdir, capsys):
    damage(workdir)
    lines = said(capsys, workdir, "--repair")
    assert lines == [
        "step 60: an unfinished save was removed",
        "step 50 is damaged (state/arrays has changed since it was written (SHA-256 differs)); it is now "
        "damaged-00000050, and step 40 is used",
        "step 30 is damaged (state/arrays is missing); it is now damaged-00000030, and step 40 is used",
        "the next start continues at step 40",
    ]
    assert names(workdir) == ["10", "20", "40", "damaged-00000007", "damaged-00000030", "damaged-00000050"]
    assert said(capsys, workdir, "--repair") == ["nothing to repair", "the next start continues at step 40"]


@pytest.mark.parametrize("option", [("--repair",), ("--prune", 1)], ids=lambda option: option[0])
def test_where_nothing_is_sound_nothing_is_touched(workdir, option):
    for step in (10, 20, 30, 40, 50):
        flip(workdir, step)
    before = names(workdir)
    message = refused(workdir, *option)
    assert "No checkpoint in" in message and names(workdir) == before
    assert "step 10: state/arrays has changed" in message


# ---- prune


def test_prune_keeps_the_newest_sound_steps_and_those_for_good(workdir, capsys):
    damage(workdir)
    before = names(workdir)
    lines = said(capsys, workdir, "--prune", 1, "--dry-run")
    assert lines[:2] == ["would delete 10, 0.0 MB", "would delete damaged-00000007, 0.0 MB"]
    assert lines[2].startswith("would free 0.0 MB in ") and names(workdir) == before
    assert [line.split()[1] for line in lines[3:]] == ["50", "30"] and all("--repair" in line for line in lines[3:])
    assert [line.split()[0] for line in said(capsys, workdir, "--prune", 1)[:3]] == ["deleted", "deleted", "freed"]
    assert names(workdir) == ["20", "30", "40", "50", "60.orbax-checkpoint-tmp", "deleting-00000005"]
    assert manifest.newest_sound(workdir / "checkpoints")[0].step == 40


def test_prune_with_more_than_there_are_deletes_none(workdir, capsys):
    assert said(capsys, workdir, "--prune", 9) == [f"freed 0.0 MB in {workdir / 'checkpoints'}"]
    assert names(workdir) == ["10", "20", "30", "40", "50"]


# ---- refusals


@pytest.mark.parametrize("option", [(), ("--verify",), ("--repair",), ("--prune", 2)], ids=str)
def test_a_workdir_that_a_run_is_using_is_refused(workdir, option):
    with locks.take(workdir / "checkpoints", "", ""):
        message = refused(workdir, *option)
    assert f"workdir={str(workdir)!r} is in use by process {os.getpid()} on " in message


def test_what_is_no_workdir_and_too_few_steps_are_refused(workdir, capsys):
    assert "holds no checkpoints/; give the folder of a run" in refused(workdir / "checkpoints")
    assert "--prune=0 would keep nothing" in refused(workdir, "--prune", 0)
    assert "--dry-run belongs to --prune" in refused(workdir, "--dry-run")
    with pytest.raises(SystemExit) as ended:
        said(capsys)
    assert ended.value.code == 2 and "WORKDIR is missing" in capsys.readouterr().err


def test_what_may_only_be_read_is_read_without_a_lock(workdir, capsys, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "continues here" in said(capsys, workdir)[2]
    assert not (workdir / "checkpoints" / locks.NAME).exists()


def test_it_imports_no_jax(workdir):
    code = (
        "import sys; from experiments import checkpoints; checkpoints.main(sys.argv); "
        "print([m for m in sys.modules if m in ('jax', 'orbax')])"
    )
    command = [sys.executable, "-c", code, str(workdir)]
    assert subprocess.check_output(command, cwd=ROOT, text=True, timeout=60).splitlines()[-1] == "[]"
