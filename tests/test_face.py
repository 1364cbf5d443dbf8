"""`import longctx as lc`: every name is there, documented and lazy, and every example works."""

import inspect
import json
import os
import pathlib
import re
import subprocess
import sys
import textwrap
import traceback

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import longctx as lc
import pallas_kernels.attention
import pallas_kernels.cross_entropy
from longctx.catalogue import Catalogue, document, summary
from longctx.errors import UserError
from pallas_kernels import lazy
from tests import house
from tests.helpers import assert_close, fast_compile, like_a_person

ROOMS = [
    lc,
    *(getattr(lc, name) for name in "checkpoints context_parallel data evals generation hf memory model".split()),
    *(getattr(lc, name) for name in "positions streaming".split()),
    pallas_kernels.attention,
    pallas_kernels.cross_entropy,
]
WITHOUT_ARRAYS = {"mesh", "all_context", "simulate", "parse_mask", "graph", "init", "init_state", "compile_step"}
SHAPE = re.compile(r"\[[A-Z][^\]]*\]|\b[BTSNKHDVF]{2,5}\b")
SMALL = (  # of what a stranger has when jax was not asked for anything
    "import sys, time; start = time.perf_counter(); import longctx as lc; seconds = time.perf_counter() - start; "
)


def python(code: str, **environment: str) -> str:
    """What a new process prints, as a person would start it: no settings of the tests, no simulated devices."""
    env = like_a_person() | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(house.ROOT)} | environment
    env = {name: value for name, value in env.items() if name != "NPROC"}
    done = subprocess.run([sys.executable, "-c", code], text=True, env=env, capture_output=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def named(room) -> dict[str, str]:
    return room.NAMES | getattr(room, "REGISTRIES", {})


def test_importing_the_face_and_its_rooms_imports_no_jax():
    heavy = "jax", "numpy", "flax", "optax", "orbax", "grain", "tokenizers"
    rooms = "; ".join(f"import {room.__name__}" for room in ROOMS)
    code = f"{SMALL}{rooms}; dir(lc); print(seconds, [name for name in {heavy} if name in sys.modules])"
    assert python(code).split(maxsplit=1)[1].strip() == "[]"


def test_settings_and_names_of_the_face_need_no_jax():
    code = f"{SMALL}lc.Config(), lc.MeshConfig(), lc.SCALINGS, lc.LAYOUTS, lc.EXTENSIONS, lc.hf, lc.layouts; "
    assert python(code + "print(lc.hf.model_config, 'jax' in sys.modules)").split()[-1] == "False"


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.__name__)
def test_every_name_is_what_its_module_says(room):
    for name, target in named(room).items():
        module, _, attribute = target.partition(":")
        original = sys.modules.get(module) or __import__(module, fromlist=["_"])
        original = getattr(original, attribute) if attribute else original
        given = getattr(room, name)
        assert given is original or isinstance(given, Catalogue) and dict(given) == dict(original), name
    assert sorted(room.__all__) == dir(room) == sorted(named(room))


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.__name__)
def test_no_name_of_a_room_is_that_of_one_of_its_modules(room):
    """Importing such a module would put it in the place of the name."""
    folder = pathlib.Path(room.__file__).parent
    modules = {path.stem for path in folder.glob("*.py")} | {path.name for path in folder.iterdir() if path.is_dir()}
    assert all(named(room)[name] == f"{room.__name__}.{name}" for name in modules & set(named(room)))


def test_a_module_of_a_room_is_there_without_an_import():
    code = "import longctx as lc; print(lc.positions.rope.__name__, lc.training.compile_step.__name__, lc.errors)"
    assert python(code).startswith("longctx.positions.rope compile_step <module 'longctx.errors'")


def test_an_unknown_name_is_an_error_with_the_nearest_one():
    for name, near in [("atention", "'attention'"), ("causal", "'Causal'"), ("STRATEGY", "'STRATEGIES'")]:
        with pytest.raises(AttributeError, match=f"module 'longctx' has no attribute '{name}'. Did you mean {near}"):
            getattr(lc, name)
    with pytest.raises(AttributeError, match="no attribute 'zzzz'.$") as caught:
        _ = lc.positions.zzzz
    assert "".join(traceback.format_exception_only(caught.value)).count("mean") == 0
    with pytest.raises(ImportError):
        from longctx import atention  # noqa: F401
    assert not hasattr(lc, "__wrapped__")


def test_a_suggestion_is_made_once():
    code = "import longctx as lc\nlc.atention"
    done = subprocess.run(
        [sys.executable, "-c", code], text=True, capture_output=True, env=os.environ | {"PYTHONPATH": str(house.ROOT)}
    )
    assert done.stderr.count("Did you mean") == 1


def test_the_names_fit_on_a_page_and_the_docstring_is_their_map():
    assert len(lc.__all__) <= 60
    missing = [name for name in lc.__all__ if not re.search(rf"\b{name}\b", lc.__doc__)]
    assert not missing, f"not in the docstring of longctx: {missing}"


def test_the_stub_says_what_the_table_says():
    assert house.STUB.read_text() == house.stub(), "`python -m tests.house` writes it"


@pytest.mark.parametrize("name", lc.__all__)
def test_every_name_of_the_face_is_documented(name):
    value = getattr(lc, name)
    if isinstance(value, Catalogue):
        unsaid = [entry for entry in value if not house.complete(document(value[entry]))]
        owed = house.debts()["undocumented_entries"].get(f"longctx:{name}", 0)
        assert len(unsaid) <= owed, f"{name}: {unsaid} must begin with a sentence of their own"
    else:
        text = inspect.getdoc(value)
        assert text and house.complete(text), f"{name}: {text}"


@pytest.mark.parametrize("name", [name for name in lc.NAMES if name not in WITHOUT_ARRAYS])
def test_functions_of_the_face_that_take_arrays_state_shapes(name):
    """In letters, or by a word about another function of the face that does."""
    value = getattr(lc, name)
    if inspect.isfunction(value):
        text = inspect.getdoc(value)
        others = [
            inspect.getdoc(getattr(lc, other)) for other in re.findall(r"as for `(\w+)`", text) if other in lc.NAMES
        ]
        assert any(map(SHAPE.search, [text, *others])), name


def test_a_catalogue_lists_names_and_what_they_are():
    masks = lc.MASKS
    assert str(masks).splitlines()[0] == f"MASKS: {len(masks)} names"
    assert "  causal     A query sees keys at its own position and before." in str(masks).splitlines()
    assert masks["causal"] is lc.Causal and "causal" in masks and len(masks) == len(list(masks)) == len(set(masks))
    assert masks.get("cusal") is None and masks.get("cusal", 1) == 1 and "cusal" not in masks
    with pytest.raises(UserError, match="MASKS='cusal' is not known. Did you mean 'causal'"):
        masks["cusal"]
    with pytest.raises(TypeError):
        masks["mine"] = lc.Causal
    assert all(len(line) < 140 for name in lc.REGISTRIES for line in str(getattr(lc, name)).splitlines())


def test_the_docstring_of_an_entry_is_its_own():
    assert document(lambda: 0) == document(3) == document("text") == document({}) == ""
    assert document(json) == inspect.cleandoc(json.__doc__) and summary(lc.Causal).startswith("A query sees")
    layout = lc.layouts.parse("zigzag")  # an instance: its class speaks for it
    assert document(layout) == inspect.cleandoc(type(layout).__doc__)
    assert document((1, lc.parse_mask)) == inspect.getdoc(lc.parse_mask)


def test_a_mesh_by_the_sizes_of_its_axes():
    assert dict(lc.mesh(context=8).shape) == dict.fromkeys(("data", "fsdp", "context_outer", "tensor"), 1) | {
        "context": 8
    }
    assert lc.mesh(data=2, fsdp=1, context_outer=2, context=2, tensor=2).size == 16
    with pytest.raises(UserError, match=r"needs 32 devices, but there are 16 \(cpu\).*lc.simulate\(32\) before"):
        lc.mesh(context=32)
    with pytest.raises(UserError, match="mesh.context"):
        lc.mesh(context=0)
    with pytest.raises(UserError, match="mesh.tensor"):
        lc.mesh(tensor=1.5)
    with pytest.raises(TypeError, match="contxt"):
        lc.mesh(contxt=8)
    with pytest.raises(UserError, match="comes too late: jax has started with 16"):
        lc.simulate(8)
    with pytest.raises(UserError, match="mesh.simulate=0"):
        lc.simulate(0)


def test_lazy_names_are_loaded_each_time():
    """So that a test or a notebook that replaces an attribute of the module is seen."""
    assert lazy.load("longctx", {"loads": "json:loads"}, "loads") is json.loads
    assert lazy.load("longctx", {"whole": "json"}, "whole") is json


def dense(q, k, v, mask):
    """(out, lse) of attention in one document as the formula says, in float64 numpy: BTNH and BTN."""
    import numpy as np

    import longctx as lc
    from pallas_kernels import masks

    q, k, v = (np.asarray(x.astype("float32"), np.float64) for x in (q, k, v))
    k, v = (np.repeat(x, q.shape[2] // x.shape[2], 2) for x in (k, v))
    info = lc.TokenInfo(*(np.asarray(x, np.int32) for x in (range(q.shape[1]), [1] * q.shape[1])))
    scores = np.einsum("BTNH,BSNH->BNTS", q, k) * q.shape[-1] ** -0.5
    p = np.where(np.asarray(masks.visible(mask, info, info)), np.exp(scores), 0.0)
    total = p.sum(-1, keepdims=True)
    return np.einsum("BNTS,BSNH->BTNH", p / total, v), np.log(total[..., 0]).transpose(0, 2, 1)


CHECK = f"""
{inspect.getsource(dense)}
from pallas_kernels.testing import relative_error, tolerance
want, want_lse = dense(q, k, v, mask)
assert out.dtype == q.dtype and out.shape == q.shape
error = relative_error(out, want)
assert error <= tolerance(out.dtype, q.shape[1]), error
assert "lse" not in globals() or relative_error(lse, want_lse) <= tolerance("float32", q.shape[1])
print("checked")
"""


def blocks(text: str) -> list[str]:
    """The code in a text: fenced, or indented by four or more."""
    fenced = re.findall(r"```(?:python|py)\n(.*?)```", text, re.S)
    return fenced + [textwrap.dedent(block) for block in re.findall(r"(?:(?:^ {4}.*)?\n)+", text + "\n", re.M)]


def example(text: str) -> str:
    """The first block of code in a text that imports longctx as lc."""
    return next(block for block in blocks(text) if "import longctx as lc" in block)


def test_the_example_of_the_docstring_runs_and_is_exact():
    """Ring attention of 1000 tokens over 8 simulated devices, against the definition in float32."""
    code = example(inspect.cleandoc(lc.__doc__))
    assert len(code.strip().splitlines()) <= 10
    assert python(code + CHECK, **fast_compile()) == "checked\n"


@pytest.mark.slow
def test_the_example_of_the_readme_runs_and_is_exact():
    """Its names are those of the docstring's: q, k, v, mask and out, under a mesh."""
    code = example((house.ROOT / "README.md").read_text())
    assert python(code + CHECK, **fast_compile()).endswith("checked\n")


def examples() -> dict[str, str]:
    """Code under a mesh in the docstrings of the face, by name."""
    code = ((name, block) for name in lc.NAMES for block in blocks(inspect.getdoc(getattr(lc, name)) or ""))
    return {name: block for name, block in code if re.search(r"^with jax.set_mesh\(", block, re.M)}


@pytest.mark.parametrize("name", examples())
def test_examples_in_docstrings_run_and_are_exact(name, monkeypatch):
    """The code is given q, k and v, the names of the face with and without `lc.`, and simulated devices."""
    monkeypatch.setattr("longctx.devices.simulate", lambda count: None)
    given = {name: getattr(lc, name) for name in lc.__all__} | {"jax": jax, "jnp": jnp, "lc": lc, "meshes": lc.meshes}
    q, k, v = jax.random.normal(jax.random.key(0), (3, 2, 48, 4, 16))
    given |= {"q": q, "k": k[:, :, :2], "v": v[:, :, :2]}
    exec(examples()[name], given)
    if "out" in given:  # windows in these examples are longer than the row
        want, _ = dense(given["q"], given["k"], given["v"], lc.Causal())
        assert_close([given["out"]], [want], jnp.float32, 48)


def test_the_rest_of_the_face_in_a_few_lines():
    """A small model: its logits, their loss, and the text that it goes on with, on two meshes."""
    config = lc.ModelConfig(layers=1, d_model=32, mlp_dim=64, heads=4, kv_heads=2, head_dim=8, dtype="float32")
    ids = np.arange(16, dtype=np.int32)[None] % 7
    batch = {"tokens": ids, "targets": ids, "positions": np.arange(16, dtype=np.int32)[None]}
    batch |= {"segments": np.ones_like(ids), "weights": np.ones(ids.shape, np.float32)}
    results = []
    for sizes in ({}, {"context": 2, "tensor": 2}):
        with jax.set_mesh(lc.mesh(**sizes)) as _:
            attention = lc.AttentionConfig(layout="contiguous")
            graph = lc.graph(config, attention)
            params = jax.jit(lc.init, static_argnums=(0, 1))(config, attention, jax.random.key(0))
            placed = lc.meshes.put_batch(batch, jax.sharding.get_mesh())
            logits = jax.jit(lc.logits, static_argnums=0)(graph, params, placed)
            nll = jax.jit(lc.nll, static_argnums=0)(graph, params, placed)
            want = -jnp.take_along_axis(jax.nn.log_softmax(np.asarray(logits)), ids[..., None], -1)[..., 0]
            np.testing.assert_allclose(np.asarray(nll), want, rtol=1e-5, atol=1e-5)
            (tokens,) = lc.generate(graph, params, [ids[0]], max_new_tokens=2)
            results.append((np.asarray(logits), tokens))
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(results[0][1], results[1][1])
    assert results[0][1].shape == (2,) and results[0][1][0] == results[0][0][0, -1].argmax()
