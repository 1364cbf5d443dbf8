"""Every notebook in colab/ runs from top to bottom, and shows pictures."""
import ast
import json
import pathlib

import pytest
from matplotlib.figure import Figure

NOTEBOOKS = sorted((pathlib.Path(__file__).parents[2] / "colab").glob("*.ipynb"))


def run(source: str, names: dict):
    """What a cell shows: the value of its last line, if that is an expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return last and eval(compile(ast.Expression(last.value), "cell", "eval"), names)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_draws(path, tmp_path):
    names, sizes = {}, []
    for cell in json.loads(path.read_text())["cells"]:
        shown = run("".join(cell["source"]), names) if cell["cell_type"] == "code" else None
        if isinstance(shown, Figure):
            shown.savefig(tmp_path / f"{len(sizes)}.png")
            sizes.append((tmp_path / f"{len(sizes)}.png").stat().st_size)
    assert sizes and min(sizes) > 5000
