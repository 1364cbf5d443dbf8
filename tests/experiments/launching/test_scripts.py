"""The scripts for TPU machines and for Slurm: shellcheck reads them, and stand-ins for the clouds run them."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from tests.experiments.launching.helpers import SLURM, TPU, config, dry

SHELLCHECK = shutil.which("shellcheck", path=f"{pathlib.Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
# A cloud of one slice: `world/` holds its state, what its first host has, and the codes with which runs will end.
GCLOUD = """#!/usr/bin/env bash
cd "$WORLD" || exit 1
echo "$*" >>calls
state=$(cat state)
case "$*" in
  *queued-resources\\ describe*)
    [ "$state" != NONE ] || { echo 'NOT_FOUND: nothing there' >&2; exit 1; }
    [ "$state" != LOST ] || { echo 'no network' >&2; echo ACTIVE >state; exit 1; }
    echo "$state"
    [ "$state" != WAITING_FOR_RESOURCES ] || echo ACTIVE >state
    ;;
  *queued-resources\\ create*) echo WAITING_FOR_RESOURCES >state; rm -f log rc ;;
  *queued-resources\\ delete*) echo NONE >state ;;
  *'cat longctx/train.rc'*) cat rc 2>/dev/null ;;
  *'tail -n +1 '*) cat log ;;
  *tail*) true ;;
  *'echo running'*) if [ -e log ] && [ ! -e rc ]; then echo running; else echo idle; fi ;;
  *nohup*)
    code=$(head -n 1 codes)
    sed -i 1d codes
    echo "step 1, to end with $code" >log
    if [ "$code" = preempted ]; then echo SUSPENDED >state; else echo "$code" >rc; fi
    ;;
  *scp*) [ ! -e no_scp ] || { rm no_scp; exit 1; } ;;
esac
"""


def text(capsys, monkeypatch, argv, devices) -> str:
    files, _ = dry(capsys, monkeypatch, argv, config(devices))
    [script] = files.values()
    return script


@pytest.mark.skipif(not SHELLCHECK, reason="shellcheck is not installed: pip install -e '.[test]'")
@pytest.mark.parametrize(
    "argv, devices", [(TPU, 64), ([*TPU[:-1], "gs://bucket", "--slices", "2"], 128), (SLURM, 16)], ids=str
)
def test_shellcheck_has_nothing_to_say(argv, devices, capsys, monkeypatch, tmp_path):
    (tmp_path / "script.sh").write_text(text(capsys, monkeypatch, argv, devices))
    done = subprocess.run([SHELLCHECK, tmp_path / "script.sh"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def played(tmp_path, script: str, programs: dict[str, str], **variables: str) -> subprocess.CompletedProcess:
    """The script, with these programs before all others, and time that does not pass."""
    for name, body in {"sleep": "#!/bin/sh\n", **programs}.items():
        (tmp_path / name).write_text(body)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "script.sh").write_text(script)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "WORLD": str(tmp_path), **variables}
    return subprocess.run(
        ["bash", str(tmp_path / "script.sh")], env=environment, capture_output=True, text=True, timeout=60
    )


def on_tpus(tmp_path, script, codes, state="NONE") -> tuple[subprocess.CompletedProcess, list[str]]:
    """(what the script ended with, names of the calls of gcloud) in a world where runs end with these codes."""
    (tmp_path / "state").write_text(state)
    (tmp_path / "codes").write_text("\n".join(codes))
    done = played(tmp_path, script, {"gcloud": GCLOUD, "git": "#!/bin/sh\n"})
    kinds = {" create ": "create", " delete ": "delete", " scp ": "scp", " nohup ": "start", "=pkill ": "kill"}
    calls = (tmp_path / "calls").read_text().splitlines()
    return done, [kind for call in calls for word, kind in kinds.items() if word in call]


@pytest.mark.parametrize(
    "codes, code, calls",
    [
        (["0"], 0, ["create", "scp", "start", "delete"]),
        (["2", "0"], 2, ["create", "scp", "start", "delete"]),  # a mistake, which is not tried again
        (["1", "75", "0"], 0, ["create", "scp", "start", "start", "start", "delete"]),
        (["preempted", "0"], 0, ["create", "scp", "start", "delete", "create", "scp", "start", "delete"]),
        (["1"] * 9, 1, ["create", "scp", "start", "start", "start", "delete"]),
    ],
    ids=str,
)
def test_a_run_on_tpus(codes, code, calls, capsys, monkeypatch, tmp_path):
    done, made = on_tpus(tmp_path, text(capsys, monkeypatch, [*TPU, "--restarts", "2"], 64), codes)
    assert done.returncode == code, done.stderr
    assert [call for call in made if call != "kill"] == calls
    assert made.count("kill") == made.count("start")
    assert "step 1, to end with" in done.stdout


def test_what_a_run_on_tpus_keeps_and_follows(capsys, monkeypatch, tmp_path):
    """Slices that are there with a run on them are neither asked for nor started again; --keep leaves them."""
    (tmp_path / "log").write_text("step 5\n")
    script = text(capsys, monkeypatch, [*TPU, "--keep"], 64).replace("sleep 20", 'echo 0 >"$WORLD/rc"')
    done, made = on_tpus(tmp_path, script, [], state="LOST")  # and the network fails once
    assert done.returncode == 0 and made == [] and done.stdout == "step 5\n"


def test_hosts_that_are_not_ready_are_prepared_again(capsys, monkeypatch, tmp_path):
    (tmp_path / "no_scp").touch()
    done, made = on_tpus(tmp_path, text(capsys, monkeypatch, TPU, 64), ["0"])
    assert done.returncode == 0 and [call for call in made if call != "kill"] == [
        "create",
        "scp",
        "scp",
        "start",
        "delete",
    ]


@pytest.mark.parametrize(
    "code, count, calls",
    [(0, "0", ""), (2, "0", ""), (1, "3", "requeue 7\n"), (75, "", "requeue 7\n"), (75, "100", "")],
)
def test_a_job_of_slurm(code, count, calls, capsys, monkeypatch, tmp_path):
    programs = {"srun": f"#!/bin/sh\nexit {code}\n", "scontrol": '#!/bin/sh\necho "$@" >>"$WORLD/calls"\n'}
    (tmp_path / "calls").touch()
    variables = {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": count}
    done = played(tmp_path, text(capsys, monkeypatch, SLURM, 16), programs, **variables)
    assert (tmp_path / "calls").read_text() == calls, done.stderr
    assert done.returncode == (0 if calls else code)


def test_a_job_of_slurm_stops_in_time(capsys, monkeypatch, tmp_path):
    """USR1 reaches the script; its processes get TERM, and it waits until they have saved."""
    srun = '#!/bin/bash\ntrap "echo saved; exit 75" TERM\necho $$ >"$WORLD/pid"\nkill -USR1 "$PPID"\n'
    srun += "while true; do read -rt 0.1 <> <(:) || true; done\n"
    programs = {
        "srun": srun,
        "scancel": '#!/bin/bash\necho "$@" >>"$WORLD/calls"\nkill -TERM "$(cat "$WORLD/pid")"\n',
        "scontrol": '#!/bin/sh\necho "$@" >>"$WORLD/calls"\n',
    }
    script = text(capsys, monkeypatch, SLURM, 16)
    done = played(tmp_path, script, programs, SLURM_JOB_ID="7", SLURM_RESTART_COUNT="0")
    assert (tmp_path / "calls").read_text() == "--signal=TERM 7\nrequeue 7\n", done.stderr
    assert done.stdout == "saved\n" and "ended with 75" in done.stderr
