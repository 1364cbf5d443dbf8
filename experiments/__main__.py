"""The command `longctx`: runs a command by its name, from any folder; without one it lists them.

longctx train --config configs/quickstart.py          # the same as python -m experiments.train ...
"""

import ast
import pathlib
import runpy
import sys

from experiments.settings.console import complain
from longctx.errors import unknown_name

HERE = pathlib.Path(__file__).parent


def commands() -> dict[str, str]:
    """The first line of each command's docstring, by name: train, ..., bench.attention, ..."""
    found = {}
    for folder, prefix in ((HERE, ""), (HERE / "bench", "bench.")):
        for path in sorted(folder.glob("*.py")):
            if not path.stem.startswith("_"):
                found[prefix + path.stem] = ast.get_docstring(ast.parse(path.read_text())).splitlines()[0]
    return found


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
