"""What `attention` refuses, in natural order and laid out, that it refuses nothing else, and rows of any length."""

import functools

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longctx import meshes
from longctx.config import MeshConfig
from longctx.context_parallel import api
from longctx.errors import UserError
from pallas_kernels import masks
from pallas_kernels.attention.bias import Alibi
from pallas_kernels.attention.spec import AttentionSpec
from tests.helpers import assert_close, problem, truth
from tests.longctx.context_parallel.cut import attend

P = problem(T=12, H=8)
Q, K, V, SEGMENTS = P.q, P.k, P.v, jnp.ones((2, 12), jnp.int32)
BOTH = pytest.mark.parametrize("entry", [attend, api.attention], ids=["laid out", "in order"])


@BOTH
@pytest.mark.parametrize(
    "change, message",
    [
        (dict(k=K[:, :8], v=V[:, :8]), r"q float32\[2, 12, 4, 8\] and k float32\[2, 8, 2, 8\]: .* the same T tokens"),
        (dict(k=(K, K)), "q has 1 parts and k has 2"),
        (dict(q=(Q, Q), k=(K, K)), "mask has 1 parts, and q and k have 2"),
        (dict(q=(Q, Q), k=(K, K[:, :8]), mask=(masks.Window(2), masks.Beyond(2))), r"k\[1\] float32\[2, 8, 2, 8\]"),
        (dict(segments=SEGMENTS[:, :8]), r"q float32\[2, 12, 4, 8\] and segments int32\[2, 8\]"),
        (dict(segments=SEGMENTS * 1.0), "segments float32.* integers"),
        (dict(segments=-SEGMENTS), "from -1 to -1"),
        (dict(mask="causal"), "mask='causal' must be one of"),
        (dict(scale=0.0), "scale=0.0 must be .* above 0"),
        (dict(bias=Alibi()), "no bias_params"),
        (dict(bias=Alibi(), bias_params=jnp.ones((2, 1))), r"bias_params float32\[2, 1\] must be"),
        (dict(sinks=jnp.ones(1)), r"sinks float32\[1\] must be of the shape \[N\], \[4\]"),
        (dict(sinks=Q), "sinks float32"),
        (dict(kv_grads_dtype="float13"), "kv_grads_dtype='float13' is not known"),
        (dict(kernel="chunkd"), "Did you mean 'chunked'"),
        (dict(head_groups=0), "head_groups=0 must be a whole"),
        (dict(head_groups=4), "must divide the 2 key heads; 1, 2"),
    ],
)
def test_calls_that_cannot_be(entry, change, message):
    with pytest.raises(UserError, match=message) as caught:
        entry(**dict(q=Q, k=K, v=V) | change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "positions, message",
    [(SEGMENTS[:1], r"positions int32\[1, 12\]"), (SEGMENTS > 0, "positions bool"), (SEGMENTS - 2, "from -1 to -1")],
)
def test_positions(positions, message):
    with pytest.raises(UserError, match=message):
        api.attention(Q, K, V, positions=positions)


def test_documents_of_attention_are_runs():
    with pytest.raises(UserError, match="row 1 of segments .* comes back to document 1"):
        api.attention(Q, K, V, segments=SEGMENTS.at[1, 4:8].set(2))


@BOTH
@pytest.mark.parametrize(
    "mesh, message",
    [
        (MeshConfig(tensor=4), "mesh.tensor=4 x head_groups=1 must divide the 2 key heads; 1, 2 would"),
        (
            MeshConfig(data=4),
            r"q float32\[2, 12, 4, 8\]: mesh.data=4 x mesh.fsdp=1 must divide the 2 rows; 4 rows work",
        ),
    ],
)
def test_meshes_that_do_not_divide(entry, mesh, message):
    with jax.set_mesh(meshes.make(mesh)), pytest.raises(UserError, match=message):
        entry(Q, K, V)


@BOTH
def test_a_mesh_of_other_axes(entry):
    with jax.set_mesh(jax.make_mesh((2,), ("x",), axis_types=(jax.sharding.AxisType.Explicit,))):
        with pytest.raises(UserError, match=r"has the Explicit axes \(x\), and must have data, fsdp, context_outer"):
            entry(Q, K, V)


SIZES = dict(B=(2, 1), T=(4, 3), N=(4, 2), K=(2, 1, 3), H=(8, 4))
DTYPES = st.sampled_from(["float32"] * 9 + ["bfloat16", "int32", "bool", "complex64"])
usually = lambda options: st.sampled_from(options[:1] * 12 + options)
array = lambda letters: st.tuples(DTYPES, st.tuples(*(usually(SIZES[letter]) for letter in letters)))
INTEGERS = st.tuples(
    st.sampled_from(["int32"] * 5 + ["uint8", "float32", "bool"]),
    st.tuples(*(usually(SIZES[letter]) for letter in "BT")),
)


@BOTH
@settings(max_examples=120, deadline=None)
@given(array("BTNH"), array("BTKH"), array("BTKH"), st.none() | INTEGERS)
def test_arrays_are_taken_exactly_where_they_go_together(entry, q, k, v, segments):
    (_, (B, T, N, H)), (_, (_, _, heads, _)) = q, k
    right = k[1] == v[1] == (B, T, heads, H) and N % heads == 0 and q[0] == k[0] == v[0] in ("float32", "bfloat16")
    right = right and (segments is None or segments[1] == (B, T) and segments[0] in ("int32", "uint8"))
    given = [None if x is None else jax.ShapeDtypeStruct(x[1], x[0]) for x in (q, k, v, segments)]
    call = lambda q, k, v, segments: entry(q, k, v, segments=segments, kernel="reference")
    if right:
        assert jax.eval_shape(call, *given).shape == q[1]
    else:
        with pytest.raises(UserError):
            jax.eval_shape(call, *given)


@pytest.mark.parametrize("entry, how", [(attend, {}), (api.attention, {}), (api.attention, dict(layout="balanced(2)"))])
def test_rows_of_any_length(entry, how):
    """21 tokens over 4 shards: padding is nothing that a token sees, under a mask that would let it."""
    p, mask = problem(B=1, T=21, H=8), masks.Full()
    call = functools.partial(entry, mask=mask, strategy="all_gather", kernel="reference", with_lse=True, **how)
    with jax.set_mesh(meshes.make(MeshConfig(context=4))):
        got = jax.jit(call)(p.q, p.k, p.v)
    assert_close(got, truth(p, AttentionSpec(mask))[:2], "float32", 32)


def test_a_layout_that_the_caller_made_has_whole_pieces():
    with jax.set_mesh(meshes.make(MeshConfig(context=4))), pytest.raises(UserError, match="seq_len=12 .* 8 or 16"):
        api.attention(Q, K, V, positions=SEGMENTS, layout="zigzag")
