"""The command `longctx` runs a command of the project from any folder; without arguments it lists them.

longctx train --config configs/quickstart.py          # is python -m experiments.train --config ...
longctx train --help
"""

import ast
import pathlib
import runpy
import sys

from experiments.settings.console import complain
from longctx.errors import unknown_name

FOLDER = pathlib.Path(__file__).parent


def commands() -> dict[str, str]:
    """{name: first line of its docstring} of every command: train, ..., bench.attention, ..."""
    lines = {}
    for folder, prefix in ((FOLDER, ""), (FOLDER / "bench", "bench.")):
        for path in sorted(folder.glob("*.py")):
            if not path.stem.startswith("_"):
                lines[prefix + path.stem] = ast.get_docstring(ast.parse(path.read_text())).splitlines()[0]
    return lines


def main() -> int:
    known = commands()
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(__doc__.strip(), "", *(f"{name:20}{line}" for name, line in known.items()), sep="\n")
        return 0
    if (name := sys.argv[1]) not in known:
        return complain(unknown_name("command", name, known))
    del sys.argv[1]
    runpy.run_module(f"experiments.{name}", run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
