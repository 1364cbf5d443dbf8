"""Notebooks in colab/: what people open is made from the script beside it, runs from top to bottom, shows pictures.

jupytext --update --to ipynb colab/*.py             after a change of a script
"""

import os
import shutil
import subprocess
import sys

import jupytext
import pytest

from tests.helpers import ROOT, nightly, slow

SCRIPTS = sorted((ROOT / "colab").glob("*.py"))
QUICK = "rope_scaling"
of_notebooks = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)


def test_every_notebook_has_a_script():
    assert {path.stem for path in SCRIPTS} == {path.stem for path in (ROOT / "colab").glob("*.ipynb")} != set()


@of_notebooks
def test_a_notebook_is_what_its_script_says(script):
    said, held = (jupytext.read(path) for path in (script, script.with_suffix(".ipynb")))
    contents = lambda notebook: [(cell.cell_type, cell.source, cell.metadata) for cell in notebook.cells]
    assert contents(held) == contents(said), "run: jupytext --update --to ipynb colab/*.py"
    assert not any(cell.get("outputs") for cell in held.cells)


@pytest.mark.parametrize("name", [*slow(QUICK), *nightly(*(path.stem for path in SCRIPTS if path.stem != QUICK))])
def test_a_notebook_runs_and_draws(name, tmp_path):
    """In a process of its own, outside of colab/; nbmake writes what it showed into the copy."""
    notebook = shutil.copy(ROOT / "colab" / f"{name}.ipynb", tmp_path)
    command = [sys.executable, "-m", "pytest", "--nbmake", "--overwrite", notebook]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout[-4000:]
    shown = [
        output.data
        for cell in jupytext.read(notebook).cells
        for output in cell.get("outputs", ())
        if output.output_type in ("display_data", "execute_result")
    ]
    assert shown and all("image/png" in data for data in shown)
