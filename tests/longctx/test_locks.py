"""A lock of a folder: held by one, named in the error of the next, and gone with the process that held it."""

import os
import subprocess
import sys

import pytest

from longctx import locks
from longctx.errors import UserError
from tests.helpers import ROOT

HOLDER = "import pathlib, sys, time; from longctx import locks; held = locks.take(pathlib.Path(sys.argv[1]), '', '')"


def take(folder):
    return locks.take(folder, f"--workdir={str(folder)!r}", "name another --workdir")


def test_a_lock_is_held_by_one_at_a_time(tmp_path):
    folder = tmp_path / "made" / "here"
    with take(folder), pytest.raises(UserError) as caught:
        take(folder)
    said = f"--workdir={str(folder)!r} is in use by process {os.getpid()} on "
    assert str(caught.value).startswith(said) and str(caught.value).endswith(": name another --workdir.")
    take(folder).close()


def test_a_process_that_was_killed_holds_no_lock(tmp_path):
    command = [sys.executable, "-c", f"{HOLDER}; print('held', flush=True); time.sleep(60)", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"in use by process {holder.pid} on "):
            take(tmp_path)
        holder.kill()
    assert (tmp_path / locks.NAME).read_text().startswith(f"{holder.pid} on ")
    take(tmp_path).close()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--workdir='.*file' cannot be used: File exists\."):
        take(tmp_path / "file")
