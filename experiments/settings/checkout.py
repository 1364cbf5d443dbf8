"""The commit that a command runs at, and its command line. Free of jax."""

import pathlib
import shlex
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def commit() -> str | None:
    """The commit of this checkout, with "+" where tracked files differ from it; None outside a checkout."""
    git = lambda *args: subprocess.run(["git", "-C", str(ROOT), *args], capture_output=True, text=True).stdout.strip()
    try:
        found = git("rev-parse", "--short=12", "HEAD") if (ROOT / ".git").exists() else ""
        changed = found and git("status", "--porcelain", "--untracked-files=no")
    except FileNotFoundError:  # no git on this machine
        return None
    return found + ("+" if changed else "") if found not in ("", "HEAD") else None


def command_line() -> str:
    """The command line of this process, as a shell takes it."""
    spec = sys.modules["__main__"].__spec__
    return shlex.join(["python", "-m", spec.name, *sys.argv[1:]] if spec else sys.argv)
