"""What the public functions of the kernels refuse: settings that are none, arrays that do not go together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.attention import api
from pallas_kernels.attention.bias import T5, Alibi, alibi_slopes
from pallas_kernels.attention.spec import AttentionSpec
from pallas_kernels.cross_entropy import api as cross_entropy
from pallas_kernels.cross_entropy.spec import CrossEntropySpec
from pallas_kernels.masks import Causal, Chunked, ChunksBefore, Full, PrefixLM, Sinks, TokenInfo, Window
from tests.helpers import problem

P = problem(T=12, S=20)
X, AT = P.inputs(), P.q_info
NAN = float("nan")


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Window(0), "Window with size=0 must be a whole number from 1"),
        (lambda: Window(-3), "size=-3"),
        (lambda: Chunked(0), "Chunked with size=0"),
        (lambda: Sinks(-1), "Sinks with count=-1 must .* from 0"),
        (lambda: PrefixLM(2.5), "length=2.5"),
        (lambda: Window(True), "size=True"),
        (lambda: Window("4"), "size='4'"),
        (lambda: ChunksBefore(0, 1), "ChunksBefore with size=0"),
        (lambda: Window(2**40), "to 1073741823"),
        (lambda: AttentionSpec("causal"), "mask='causal' must be one of pallas_kernels.masks, such as Causal"),
        (lambda: AttentionSpec(Causal), "mask=<class"),
        (lambda: AttentionSpec(np.ones((9, 9))), "mask=array.* must"),
        (lambda: AttentionSpec(scale=0.0), "scale=0.0 must be a finite number, above 0; None is 1 / sqrt"),
        (lambda: AttentionSpec(scale=-1.0), "scale=-1.0"),
        (lambda: AttentionSpec(scale=NAN), "scale=nan"),
        (lambda: AttentionSpec(scale="1"), "scale='1'"),
        (lambda: AttentionSpec(scale=True), "scale=True"),
        (lambda: AttentionSpec(soft_cap=-3.0), r"soft_cap=-3.0 must be a finite number, 0 \(none\) or above"),
        (lambda: AttentionSpec(soft_cap=float("inf")), "soft_cap=inf"),
        (lambda: AttentionSpec(block=-1), "block=-1"),
        (lambda: AttentionSpec(bias="alibi"), "bias='alibi' must be None or of pallas_kernels.attention.bias"),
        (lambda: T5(1), "buckets=1 must be a whole number from 2"),
        (lambda: T5(32, 16), "max_distance=16 .* from 17"),
        (lambda: T5(2, bidirectional=True), "buckets=2 .* from 4"),
        (lambda: alibi_slopes(0), "heads=0"),
        (lambda: CrossEntropySpec(soft_cap=-1.0), "soft_cap=-1.0"),
        (lambda: CrossEntropySpec(chunk=0), "chunk=0"),
    ],
)
def test_settings_that_are_none(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("other", [None, 3, Causal])
def test_only_masks_combine(other):
    for mask in (Causal(), Full()):
        with pytest.raises(TypeError, match="unsupported operand"):
            mask & other
        with pytest.raises(TypeError, match="unsupported operand"):
            mask | other


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(k=P.k[:1], v=P.v[:1]), r"q float32\[2, 12, 4, 16\] and k float32\[1, 20, 2, 16\]: .* as many rows"),
        (dict(v=P.v[:, :9]), r"k float32\[2, 20, 2, 16\] and v float32\[2, 9, 2, 16\]: .* one shape"),
        (dict(v=P.v[..., :8]), "one shape"),
        (dict(k=P.k[..., :8], v=P.v[..., :8]), "head dims must be equal"),
        (dict(q=P.q[:, :, :3]), "key heads must divide query heads"),
        (dict(q=P.q[0]), r"q float32\[12, 4, 16\] must have"),
        (dict(q=P.q[:, :0]), "none of them empty"),
        (dict(v=P.v.tolist()), "v is of type list, and must be an array"),
        (dict(q=P.q.astype("bfloat16")), r"q bfloat16\[2, 12, 4, 16\], k float32.* must be of one dtype"),
        (dict(q=P.q.astype(complex)), "q complex64.* must be of one of the dtypes float16, bfloat16"),
        (dict(k=P.k.astype(int)), "k int32"),
        (dict(q=P.q > 0, k=P.k > 0, v=P.v > 0), "q bool"),
        (dict(q_info=AT.positions), "q_info is of type"),
        (dict(k_info=AT), r"k float32.* and positions int32\[2, 12\]"),
        (
            dict(q_info=AT._replace(segments=AT.segments[:, :9])),
            r"q float32\[2, 12, 4, 16\] and segments int32\[2, 9\]: segments must be of the shape \[B, T\], \[2, 12\]",
        ),
        (dict(q_info=AT._replace(segments=AT.segments[:1])), r"segments int32\[1, 12\]"),
        (dict(q_info=AT._replace(segments=AT.segments > 0)), "segments bool.* must be integers"),
        (dict(q_info=AT._replace(positions=AT.positions * 1.0)), "positions float32.* must be integers"),
        (dict(q_info=AT._replace(segments=-AT.segments)), "holds numbers from -1 to -1, and they must be from 0"),
        (dict(q_info=AT._replace(segments=np.full((2, 12), 2**40))), "segments int64.* 1099511627776"),
        (dict(q_info=AT._replace(positions=AT.positions - 5)), "positions int32.* holds numbers from -5 to 6"),
        (dict(spec=AttentionSpec(bias=Alibi())), "no bias_params: a bias reads bias_params"),
        (dict(bias_params=jnp.ones((4, 1))), r"bias=None and bias_params float32\[4, 1\]"),
        (
            dict(spec=AttentionSpec(bias=Alibi()), bias_params=jnp.ones((4, 3))),
            r"must be of the shape \[N, D\], \[4, 1\]",
        ),
        (
            dict(spec=AttentionSpec(bias=T5(8)), bias_params=jnp.ones((4, 9))),
            r"must be of the shape \[N, D\], \[4, 8\]",
        ),
    ],
)
def test_arrays_that_do_not_go_together(change, message):
    change = {"spec": AttentionSpec(), **change}
    spec = change.pop("spec")
    with pytest.raises(ValueError, match=message) as caught:
        api.attention(X._replace(**change), spec)
    assert "\n" not in str(caught.value)


def test_positions_of_padding_and_integers_of_any_width_are_fine():
    at = TokenInfo(
        np.where(np.arange(12) < 9, np.arange(12), -1)[None].repeat(2, 0), np.arange(12)[None].repeat(2, 0) < 9
    )
    at = at._replace(segments=at.segments.astype(np.uint8))
    out, _ = api.attention(X._replace(q_info=at), AttentionSpec(), "reference")
    same = TokenInfo(*(jnp.asarray(x, jnp.int32) for x in at))
    np.testing.assert_array_equal(out, api.attention(X._replace(q_info=same), AttentionSpec(), "reference").out)
    assert not np.asarray(out)[:, 9:].any() and np.asarray(out)[:, :9].all()


HIDDEN, HEAD, TARGETS = jnp.ones((6, 8)), jnp.ones((8, 10)), jnp.arange(6)


@pytest.mark.parametrize(
    "x, head, targets, message",
    [
        (HIDDEN, HEAD, TARGETS[:4], r"x float32\[6, 8\] and targets int32\[4\]: there must be a target for each token"),
        (HIDDEN, HEAD, TARGETS[:, None], r"targets int32\[6, 1\] must have the axes \[M\]"),
        (HIDDEN, HEAD, TARGETS * 1.0, "targets float32.* must be integers"),
        (HIDDEN, HEAD, TARGETS > 0, "targets bool"),
        (HIDDEN, HEAD[:4], TARGETS, r"x float32\[6, 8\] and head float32\[4, 10\] must have one dtype and one D"),
        (HIDDEN.astype("bfloat16"), HEAD, TARGETS, "one dtype"),
        (HIDDEN.astype(int), HEAD.astype(int), TARGETS, "x int32"),
        (HIDDEN, HEAD[:, :0], TARGETS, "none of them empty"),
    ],
)
def test_a_head_and_targets_that_do_not_go_together(x, head, targets, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda *a: cross_entropy.head_scores(*a, CrossEntropySpec()), x, head, targets)


def test_under_a_trace_values_are_not_asked_for():
    call = lambda segments: api.attention(X._replace(q_info=AT._replace(segments=segments)), AttentionSpec())
    assert jax.eval_shape(call, -AT.segments)[0].shape == P.q.shape
