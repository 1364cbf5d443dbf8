"""README and docs say what is so: excerpts are in the source, links lead somewhere, tables are what their JSON says."""

import json
import os
import re
import subprocess
import sys

import pytest

import longctx
from docs import include
from experiments.bench import results
from longctx.errors import UserError
from tests.helpers import ROOT

PAGES = sorted((ROOT / "docs").rglob("*.md"))
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
README = ROOT / "README.md"


def directives() -> list[str]:
    return [match[1] for page in PAGES for match in include.DIRECTIVE.finditer(page.read_text())]


@pytest.mark.parametrize("arguments", directives())
def test_an_excerpt_is_in_the_source(arguments):
    code = include.fenced(arguments).split("\n", 1)[1]
    assert 1 < len(code.splitlines()) < 80


@pytest.mark.parametrize(
    "arguments, said",
    [
        ("longctx/data/rows.py gone", "has no gone"),
        ("longctx/data/rows.py table.gone", "has no table.gone"),
        ('longctx/data/rows.py table from "nowhere"', "0 lines hold"),
        ('longctx/data/rows.py table to "nowhere"', "no line holds"),
    ],
)
def test_an_excerpt_that_is_gone_is_an_error(arguments, said):
    with pytest.raises(LookupError, match=said):
        include.fenced(arguments)


def test_an_excerpt_begins_and_ends_where_asked():
    code = include.excerpt("longctx/data/rows.py", "PackedRows.gather", "return {", "}")
    assert code.startswith("return {") and code.endswith("}") and '"segments"' in code


def test_the_tour_has_ten_stops_with_code():
    stops = re.split(r"^## \d+\. ", (ROOT / "docs" / "tour.md").read_text(), flags=re.MULTILINE)[1:]
    assert len(stops) == 10 and all("\n::code " in stop for stop in stops)


def test_tables_of_results_are_what_their_json_says():
    pages = sorted(results.FOLDER.glob("*.md"))
    stale = [page.name for page in pages if results.rendered(page.read_text()) != page.read_text()]
    assert pages and not stale, "run: python -m experiments.bench.results"


def test_every_result_is_on_a_page_with_its_origin():
    text = "".join(page.read_text() for page in results.FOLDER.glob("*.md"))
    for path in results.FOLDER.glob("*.json"):
        assert f"<!-- table {path.name} " in text and f"<!-- origin {path.name} -->" in text, path.name
        content = json.loads(path.read_text())
        assert content["command"] and content["environment"]["commit"], path.name


def test_no_page_of_results_has_a_table_by_hand():
    for page in results.FOLDER.glob("*.md"):
        rest = results.MARKER.sub("", page.read_text())
        assert page.name == "index.md" or "\n|" not in rest, page.name


def test_a_page_that_is_not_current_is_noticed(tmp_path):
    content = {
        "command": "c",
        "environment": {"commit": "abc"},
        "tables": {"t": {"columns": ["a"], "rows": [[0.12345]]}},
    }
    (tmp_path / "x.json").write_text(json.dumps(content))
    page = "# X\n\n<!-- table x.json t -->\n<!-- end -->\n\n<!-- origin x.json -->\n<!-- end -->\n"
    rendered = results.rendered(page, tmp_path)
    assert "| 0.123 |" in rendered and "commit abc" in rendered and results.rendered(rendered, tmp_path) == rendered
    with pytest.raises(UserError, match="not there"):
        results.rendered(page.replace("x.json", "y.json"), tmp_path)
    with pytest.raises(UserError, match="known"):
        results.rendered(page.replace(".json t", ".json u"), tmp_path)


@pytest.mark.parametrize("page", [README, ROOT / "CONTRIBUTING.md", *PAGES], ids=lambda path: path.name)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    local = [target for target in LINK.findall(text) if "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []


def test_every_page_is_in_the_navigation():
    nav = (ROOT / "mkdocs.yml").read_text().split("nav:")[1]
    assert sorted(re.findall(r"(\S+\.md)", nav)) == [str(page.relative_to(ROOT / "docs")) for page in PAGES]


def test_readme_is_two_pages_and_has_the_commands():
    text, command = README.read_text(), "pip install -e '.[test,aot]' && python -m pytest"
    assert len(text.encode()) <= 9216
    assert command in text and command in (ROOT / ".ci" / "run").read_text().replace(" --quiet", "")


def test_every_name_of_the_face_is_on_an_api_page():
    text = "".join(page.read_text() for page in (ROOT / "docs" / "api").glob("*.md"))
    modules = "longctx.layouts", "longctx.hf"
    targets = {name.replace(":", ".") for name in longctx.NAMES.values()} - set(modules)
    assert targets and [name for name in targets if f"::: {name}\n" not in text] == []


def test_the_table_of_what_to_edit_names_what_is_there():
    packages = "longctx", "pallas_kernels", "experiments"
    files = [path for package in packages for path in (ROOT / package).rglob("*.py")]
    paths = {f"/{path.relative_to(ROOT)}" for file in files for path in (file, file.parent)}
    source = "\n".join(file.read_text() for file in files)
    for code in re.findall(r"`([^`]+)`", (ROOT / "docs" / "extend.md").read_text()):
        if re.fullmatch(r"[a-z_/]+\.py|[a-z_/]+/", code):
            assert any(path.endswith(f"/{code.rstrip('/')}") for path in paths), code
        for name in set(re.findall(r"\b[A-Z_]{4,}\b", code)) - {"NAME"}:
            assert re.search(rf"^{name}\b.* = ", source, re.MULTILINE), name


def test_commands_in_pages_are_there():
    text = "".join(page.read_text() for page in [README, ROOT / "CONTRIBUTING.md", *PAGES])
    names = {name.rstrip(".") for name in re.findall(r"python -m ((?:experiments|tests)\.[\w.]+)", text)}
    assert names and [name for name in names if not (ROOT / f"{name.replace('.', '/')}.py").exists()] == []


@pytest.mark.slow
def test_the_example_of_readme_prints_what_readme_says():
    """The same strategies, shapes and lse; differences from one device stay as small as float32 is."""
    code, after = README.read_text().split("```python\n")[1].split("```")[:2]
    said = [line.split() for line in after.splitlines() if line.startswith("    ")]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-4000:]
    printed = [line.split() for line in done.stdout.splitlines()]
    assert [line[:-1] for line in printed] == [line[:-1] for line in said[: len(printed)]] and len(printed) == 2
    assert all(float(line[-1]) < 1e-5 for line in printed)


def test_files_in_the_tree_of_readme_are_there():
    tree = README.read_text().split("## The tree")[1].split("```")[1]
    folder = ROOT
    for line in tree.strip().splitlines():
        inside = line.startswith("  ")
        names = line.strip().split("   ")[0].split()
        assert all(((folder if inside else ROOT) / name).exists() for name in names), line
        folder = folder if inside else ROOT / names[0]
