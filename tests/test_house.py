"""House rules that only ever get tighter: what breaks one today is listed in house_debts.json, and nothing new may.

`python -m tests.house` writes that file again after something was mended.
"""

import pathlib

import pytest

from pallas_kernels import masks
from tests import house

README_LIMIT = 9 * 1024


@pytest.mark.parametrize("measure", house.MEASURES)
def test_nothing_new_breaks_a_rule(measure):
    """Long files and functions, many arguments, lambdas and entries without docstrings in registries, openers."""
    grown = house.grown(house.MEASURES[measure](), house.debts()[measure])
    assert not grown, f"{measure}: {grown} is more than tests/house_debts.json allows; mend it, do not list it"


@pytest.mark.parametrize("measure", house.MEASURES)
def test_what_is_mended_is_no_longer_owed(measure):
    paid = house.paid(house.MEASURES[measure](), house.debts()[measure])
    assert not paid, f"{measure}: {paid} is more than is left; `python -m tests.house` writes what is"


def test_imports_go_down():
    """experiments -> longctx -> pallas_kernels; the face is for users, and nothing inside of the library imports it."""
    assert not house.upward(house.arrows())


@pytest.mark.parametrize("room", [house.room, str], ids=["rooms", "files"])
def test_imports_run_in_no_circle(room):
    """Imports inside of functions count."""
    assert not house.circles(house.arrows(), room)


def test_the_readme_is_two_pages():
    assert (house.ROOT / "README.md").stat().st_size <= README_LIMIT


def made(root: pathlib.Path, **texts: str) -> pathlib.Path:
    """A tree of three floors; the keys are names of modules with __ for the dots."""
    for floor in house.FLOORS:
        (root / floor).mkdir()
        (root / floor / "__init__.py").write_text('"""A floor."""\n')
    for name, text in texts.items():
        path = root.joinpath(*name.split("__")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_the_measures_see_imports_that_go_up(tmp_path):
    root = made(
        tmp_path,
        pallas_kernels__a="import longctx.b\n",
        longctx__b="def f():\n    from experiments import c\n",
        experiments__c="import pallas_kernels.a, longctx.b, json\nimport longctx as lc\n",
        longctx__inside="import longctx as lc\n",
    )
    assert house.upward(house.arrows(root)) == {
        ("pallas_kernels.a", "longctx.b"),
        ("longctx.b", "experiments.c"),
        ("longctx.inside", "longctx"),
    }


def test_the_measures_see_circles(tmp_path):
    """Between rooms, where no file is in a circle; and between files of one room, where the room is in none."""
    root = made(
        tmp_path,
        longctx__one__a="from longctx.two import a\n",
        longctx__two__a="import longctx.three\n",
        longctx__two__b="from longctx.one.b import x\n",
        longctx__one__b="x = 1\n",
        longctx__three="def f():\n    from longctx.one import b\n",
        longctx__four__a="import longctx.four.b\n",
        longctx__four__b="from longctx.four import a\n",
    )
    imports = house.arrows(root)
    assert house.circles(imports) == [["longctx.one", "longctx.three", "longctx.two"]]
    assert house.circles(imports, str) == [["longctx.four.a", "longctx.four.b"]]


def test_the_measures_see_what_is_too_long(tmp_path):
    body = "".join(f"    x = {i}\n" for i in range(41))
    documented = '    """One line.\n\n    And more.\n    """\n' + body[: body.index("    x = 39\n")]
    root = made(
        tmp_path,
        longctx__file="#\n" * 501,
        longctx__functions=f"def long():\n{body}\n\ndef fits():\n{documented}\n\ndef main():\n{body}",
        pallas_kernels__attention__tpu__kernel=f"def body(a, b, c, d, e, f, g, h, i):\n{body}",
        longctx__arguments="class A:\n    def nine(self, a, b, c, *d, e, f, g, h=1, **i): ...\n"
        "    def eight(self, a, b, c, *d, e, f, g, **h): ...\n",
    )
    assert house.long_files(root) == {"longctx/file.py": 501}
    assert house.long_functions(root) == {"longctx/functions.py:long": 42}
    assert house.many_arguments(root) == {"longctx/arguments.py:nine": 9}


def test_the_measures_see_lambdas_and_openers(tmp_path):
    root = made(
        tmp_path,
        longctx__registry="NAMES = {'a': lambda x: x, 'b': len}\nTYPED: dict = {'a': lambda: 0, 'b': lambda: 1}\n"
        "small = {'a': lambda: 0}\nCALLS = {'a': f(lambda x: x)}\n",
        longctx__words='"""As many as there are."""\ndef f():\n    """The same."""\nclass A:\n    """Those there."""\n',
    )
    assert house.lambdas(root) == {"longctx/registry.py:NAMES": 1, "longctx/registry.py:TYPED": 2}
    assert house.openers(root) == {"longctx/words.py": 2}


def test_entries_without_a_docstring_are_seen(monkeypatch):
    before = house.undocumented_entries()
    monkeypatch.setitem(masks.NAMES, "made", type("Made", (masks.Mask,), {"__module__": "pallas_kernels.masks"}))
    assert house.undocumented_entries() == before | {"longctx:MASKS": 1, "pallas_kernels/masks.py:NAMES": 1}


def test_debts_are_compared_in_both_directions():
    owed = {"a": 3, "b": 2, "c": 1}
    measured = {"a": 4, "b": 1, "d": 1}
    assert house.grown(measured, owed) == {"a": 4, "d": 1}
    assert house.paid(measured, owed) == {"b": 2, "c": 1}
