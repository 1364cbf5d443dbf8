"""The cases of gpu_check and their answers, each computed in a process that may crash.

A case is first prepared, which compiles everything, and then answered; a timed case must have the GPU alone for its
answer. Imports only what a machine with jax, flax and optax has, and nothing else of the project's requirements.
"""

import dataclasses
import functools
import pathlib
import statistics
import time

from experiments.bench.harness import gpu_decode
from experiments.bench.harness.flops import attention_flops
from experiments.bench.harness.gpu_step import step

MASKS = {
    "causal": "causal",
    "full": "full",
    "packed": "causal & segments",
    "window": "causal & window(100)",
    "sinks": "causal & (window(60) | sinks(4))",
}
PEER = "jax_nn"  # the route that is jax.nn.dot_product_attention(implementation="cudnn")
_WIDTH, _VOCABULARY = 256, 1000  # hidden size and vocabulary size, for cross-entropy
_BURST, _BURSTS, _CALLS = 0.05, 9, 100  # seconds of a burst of calls, number of bursts, most calls in one


@dataclasses.dataclass(frozen=True)
class Case:
    """One measurement or check of one kernel.

    Attributes:
      kind: a name in KINDS.
      route: a kernel, a name in IMPLEMENTATIONS of attention or cross-entropy; for "time" also PEER.
      op: for "time": forward or backward.
      mask: a name in MASKS.
      queries: for "decode" and "decode_time": new tokens of each row, after `length` slots of a cache.
      rows, length, heads, kv_heads, head_dim, dtype: of the arrays; kv_heads=0 means as many as heads.
      pieces: shards of queries and keys, as in a ring; each pair's backward is given the global row statistics.
      block: tokens of a block, for kernels that let it be chosen; 0 is the kernel's own choice.
    """

    kind: str
    route: str
    op: str = "forward"
    mask: str = "causal"
    rows: int = 2
    length: int = 512
    heads: int = 8
    kv_heads: int = 0
    head_dim: int = 128
    dtype: str = "bfloat16"
    pieces: int = 1
    soft_cap: float = 0.0
    block: int = 0
    queries: int = 0

    @property
    def problem(self) -> str:
        """The case without its op, in words: kind, route, mask, and other fields that differ from their defaults."""
        words = [self.kind, self.route, *([self.mask] if self.kind in ("right", "time") else [])]
        omitted = "kind", "route", "op", "mask", "rows", "heads"
        changed = [field for field in dataclasses.fields(self) if getattr(self, field.name) != field.default]
        return " ".join(words + [f"{f.name}={getattr(self, f.name)}" for f in changed if f.name not in omitted])

    @property
    def name(self) -> str:
        """The case in words, by which answers are recorded."""
        return self.problem + (f" {self.op}" if self.kind == "time" else "")

    def flops(self) -> float:
        """Useful FLOPs of a timed case: those of visible pairs, which are half the square under a causal mask."""
        density = 0.5 if self.mask == "causal" else 1.0
        return self.rows * attention_flops(self.op, self.heads, self.length, self.head_dim, density)


class Programs:
    """The compiled functions of a case: exported ones in `folder`, or else those of the installed kernels.

    made: the functions of all cases so far, which cases of the same problem share.
    """

    def __init__(self, case: Case, folder: pathlib.Path | None = None, made: dict | None = None):
        self.case, self.folder, self.made = case, folder, {} if made is None else made

    def path(self, name: str) -> pathlib.Path:
        """The file of an exported function."""
        return self.folder / f"{self.case.problem} {name}.bin".replace(" ", "_")

    def __call__(self, name: str, f):
        """The function f(*trees of arrays) under `name`, compiled at its first call."""
        key = self.case.problem, name
        if key not in self.made:
            self.made[key] = self.make(name, f)
        return self.made[key]

    def make(self, name, f):
        """The function f under `name`, as `__call__` returns it."""
        import jax

        if self.folder is None or not self.path(name).exists():
            return jax.jit(f)
        register_tuples()
        loaded = jax.jit(jax.export.deserialize(bytearray(self.path(name).read_bytes())).call)
        return lambda *trees: loaded(*jax.tree.leaves(trees))


class Lowered(Programs):
    """Programs whose functions are lowered for `platform` when they are called, and return zeros."""

    platform = "cuda"

    def make(self, name, f):
        import jax
        import jax.numpy as jnp

        def lower(*trees):
            leaves, tree = jax.tree.flatten(trees)
            flat = lambda *leaves: f(*jax.tree.unflatten(tree, leaves))
            types = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves]
            self.keep(name, jax.jit(flat), types)
            return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(flat, *types))

        return lower

    def keep(self, name, f, types):
        f.trace(*types).lower(lowering_platforms=(self.platform,))


class Export(Lowered):
    """Programs whose functions are exported to `folder` when they are called, unless they are there already."""

    def keep(self, name, f, types):
        import jax

        if not self.path(name).exists():
            register_tuples()
            checks = [jax.export.DisabledSafetyCheck.custom_call(f"triton_kernel_call{end}") for end in ("", "_ffi")]
            exported = jax.export.export(f, platforms=[self.platform], disabled_checks=checks)(*types)
            self.path(name).write_bytes(exported.serialize())


@functools.cache
def register_tuples() -> None:
    """Lets jax.export write and read the named tuples of attention."""
    import jax

    from pallas_kernels.attention.pair import Grads, Inputs, Pair, RowStats
    from pallas_kernels.masks import TokenInfo

    for kind in (Grads, Inputs, Pair, RowStats, TokenInfo):
        jax.export.register_namedtuple_serialization(kind, serialized_name=f"longctx.{kind.__name__}")


def lower(programs: Lowered, chip: str) -> None:
    """Lowers all functions of a case for a chip. Raises NotImplementedError where the route cannot."""
    import jax

    from pallas_kernels import gpu_chips

    case = programs.case
    problem, results = LOWERED[case.kind]
    with gpu_chips.target(chip):
        jax.eval_shape(lambda p: results(case, p, programs), jax.eval_shape(lambda: problem(case)))


def export(case: Case, folder: pathlib.Path, chip: str) -> None:
    """Exports the programs of a case to `folder`, for machines without the packages of its kernels.

    Raises NotImplementedError where the route cannot.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lower(Export(case, folder), chip)


class Answers:
    """The computation of answers in one process.

    Args:
      folder: of exported programs.
      chip: in a rehearsal, the chip for which programs that this machine cannot run are lowered.
    """

    def __init__(self, folder: pathlib.Path | None = None, chip: str | None = None):
        self.folder, self.chip, self.made, self.ready = folder, chip, {}, {}

    def prepare(self, case: Case) -> dict:
        """Compiles a case and runs it once; returns {"cannot": reason} where the route or this machine cannot."""
        refusal = self._refusal(lambda: self.ready.update({case: self._prepared(case)}))
        if refusal and self.chip and case.kind in LOWERED:
            return self._refusal(lambda: lower(Lowered(case), self.chip)) or {"lowered": f"for {self.chip}, not run"}
        return refusal

    def _prepared(self, case):
        return KINDS[case.kind](case, Programs(case, self.folder, self.made))

    def _refusal(self, do):
        """Calls do(); {"cannot": reason} where it raises an error for what is not supported or not installed."""
        try:
            do()
        except NotImplementedError as error:
            return {"cannot": str(error)}
        except ModuleNotFoundError as error:
            return {"cannot": f"needs {error.name}, which is not installed"}
        return {}

    def answer(self, case: Case) -> dict:
        """The answer to a case: numbers from this machine's device, or the reason why there are none."""
        refusal = {} if case in self.ready else self.prepare(case)
        return refusal or self.ready.pop(case)()


def small_problem(case: Case):
    """The arrays of a case that checks attention."""
    import jax.numpy as jnp

    from pallas_kernels.testing import packed, problem

    info = packed(1, case.rows, case.length, mean=case.length // 4) if case.mask == "packed" else None
    p = problem(
        0,
        B=case.rows,
        T=case.length,
        N=case.heads,
        K=case.kv_heads or case.heads,
        H=case.head_dim,
        dtype=jnp.dtype(case.dtype),
        infos=info and (info, info),
    )
    return p._replace(dlse=jnp.zeros_like(p.dlse))


def large_problem(case: Case):
    """The arrays of a timed case, drawn on the device."""
    import jax
    import jax.numpy as jnp

    from pallas_kernels.testing import Problem, one_document

    q, k, v, dout = (
        jax.random.normal(key, (case.rows, case.length, heads, case.head_dim), case.dtype)
        for key, heads in zip(
            jax.random.split(jax.random.key(0), 4),
            (case.heads, *[case.kv_heads or case.heads] * 2, case.heads),
            strict=True,
        )
    )
    info = one_document(case.rows, case.length)
    return Problem(q, k, v, info, info, dout, jnp.zeros(q.shape[:3], jnp.float32))


def attended(case: Case, p, programs):
    """(out, lse, dq, dk, dv) with queries and keys in pieces.

    For each piece of queries, forward goes on from the pair of the pieces of keys before, and backward is given the
    RowStats over all keys.
    """
    import jax
    import jax.numpy as jnp

    from pallas_kernels.attention.pair import Inputs, row_stats

    spec, route = _route(case)
    cuts = [slice(i * case.length // case.pieces, (i + 1) * case.length // case.pieces) for i in range(case.pieces)]
    pieces = lambda *tree: [jax.tree.map(lambda x, cut=cut: x[:, cut], tree) for cut in cuts]
    forward = lambda x, initial: route(x).forward(x, spec, initial)
    backward = lambda x, stats: route(x).backward(x, spec, stats)[:3]
    keys, pairs, grads = pieces(p.k, p.v, p.k_info), [], []
    for q, q_info, dout in pieces(p.q, p.q_info, p.dout):
        inputs, pair = [Inputs(q, k, v, q_info, k_info) for k, v, k_info in keys], None
        for i, x in enumerate(inputs):
            pair = programs(f"forward {min(i, 1)}", forward)(x, pair)
        stats = row_stats(pair, (dout, None))
        grads.append([programs("backward", backward)(x, stats) for x in inputs])
        pairs.append(pair)
    total = lambda parts, i: sum(jnp.asarray(part[i], jnp.float32) for part in parts)
    whole = lambda parts: jnp.concatenate(parts, 1)
    return (
        *map(whole, zip(*pairs, strict=True)),
        whole([total(row, 0) for row in grads]),
        *(whole([total(column, i) for column in zip(*grads, strict=True)]) for i in (1, 2)),
    )


def right(case: Case, programs):
    """A function () -> {"error": of out, lse, dq, dk, dv to the float64 reference, "limit": what rounding allows}."""
    import jax

    from pallas_kernels.testing import truth

    p = small_problem(case)
    results = jax.device_get(attended(case, p, programs))
    return lambda: _compared(
        ("out", "lse", "dq", "dk", "dv"),
        results,
        case.dtype,
        case.length,
        lambda: truth(jax.device_get(p), _route(case)[0]),
    )


def _compared(names, results, dtype, terms, truth):
    """{"error": by name, "limit"} of results against truth(), which is computed on the CPU."""
    import jax

    from pallas_kernels.testing import tolerance

    with jax.default_device(jax.devices("cpu")[0]):
        errors = [_error(got, want) for got, want in zip(results, truth(), strict=True)]
    return {"error": dict(zip(names, errors, strict=True)), "limit": tolerance(dtype, terms)}


def _error(got, want) -> float:
    """The relative error of an array; infinity where other elements are finite than in `want`."""
    import numpy as np

    from pallas_kernels.testing import relative_error

    same = (np.isfinite(np.asarray(got, np.float64)) == np.isfinite(want)).all()
    return relative_error(got, want) if same else float("inf")


def loss_problem(case: Case):
    """(hidden states, head, targets, cotangents of score and lse) of a case that checks cross-entropy."""
    import jax.numpy as jnp
    import numpy as np

    rng, rows = np.random.default_rng(0), case.rows * case.length
    x, head = rng.standard_normal((rows, _WIDTH)), rng.standard_normal((_WIDTH, _VOCABULARY)) / _WIDTH**0.5
    targets = rng.integers(-1, _VOCABULARY, rows)
    return (
        jnp.asarray(x, case.dtype),
        jnp.asarray(head, case.dtype),
        jnp.asarray(targets, jnp.int32),
        tuple(jnp.asarray(rng.standard_normal(rows), jnp.float32) for _ in range(2)),
    )


def scored(case: Case, p, programs):
    """(score, lse, dx, dhead) of a cross-entropy's problem."""
    from pallas_kernels.cross_entropy import api
    from pallas_kernels.cross_entropy.spec import CrossEntropySpec

    x, head, targets, cotangent = p
    spec = CrossEntropySpec()
    module = lambda x, head: api.select(case.route, x, head, spec)
    forward = lambda x, head, targets: module(x, head).forward(x, head, targets, spec)
    backward = lambda x, head, targets, lse, dout: module(x, head).backward(x, head, targets, spec, lse, dout)
    score, lse = programs("forward", forward)(x, head, targets)
    return score, lse, *programs("backward", backward)(x, head, targets, lse, cotangent)


def cross_entropy(case: Case, programs):
    """A function () -> {"error": of score, lse, dx, dhead to the float64 reference, "limit": what rounding allows}."""
    import jax

    p = loss_problem(case)
    results = jax.device_get(scored(case, p, programs))
    return lambda: _compared(
        ("score", "lse", "dx", "dhead"), results, case.dtype, _VOCABULARY, lambda: _true_scores(jax.device_get(p))
    )


def _true_scores(p):
    import jax
    import jax.numpy as jnp
    import numpy as np

    from pallas_kernels.cross_entropy import reference
    from pallas_kernels.cross_entropy.spec import CrossEntropySpec

    with jax.enable_x64(True):
        x, head, *cotangent = (jnp.asarray(np.asarray(a, np.float64)) for a in (*p[:2], *p[3]))
        score, lse = reference.forward(x, head, p[2], CrossEntropySpec())
        grads = reference.backward(x, head, p[2], CrossEntropySpec(), lse, tuple(cotangent))
        return jax.tree.map(np.asarray, (score, lse, *grads))


def timed_call(case: Case, p, programs):
    """(results, function that computes them again) of a timed case."""
    from pallas_kernels.attention.pair import row_stats

    (spec, route), x = _route(case), p.inputs()
    call, arguments = programs("forward", lambda x: route(x).forward(x, spec)), (x,)
    if case.op == "backward":
        arguments = x, row_stats(call(x), (p.dout, None))
        call = programs("backward", lambda x, stats: route(x).backward(x, spec, stats)[:3])
    return call(*arguments), lambda: call(*arguments)


def timed_results(case: Case, p, programs):
    """The results of a timed case."""
    return timed_call(case, p, programs)[0]


def peer_call(case: Case, p, programs):
    """(results, function that computes them again) of jax.nn's attention, on a GPU by cuDNN."""
    import jax

    options = {
        "is_causal": case.mask == "causal",
        "implementation": "cudnn" if jax.default_backend() == "gpu" else "xla",
    }
    attend = programs("forward", lambda q, k, v: jax.nn.dot_product_attention(q, k, v, **options))
    call, arguments = attend, (p.q, p.k, p.v)
    if case.op == "backward":
        arguments = jax.vjp(attend, *arguments)[1], p.dout
        call = programs("backward", lambda pull, dout: pull(dout))
    return call(*arguments), lambda: call(*arguments)


def timing(case: Case, programs):
    """A function () -> {"seconds": of a call, by burst, "tflops": by the median}."""
    import jax

    first, repeat = (peer_call if case.route == PEER else timed_call)(case, large_problem(case), programs)
    jax.block_until_ready(first)

    def measured():
        seconds = bursts(repeat)
        return {"seconds": seconds, "tflops": case.flops() / statistics.median(seconds) / 1e12}

    return measured


def decode(case: Case, programs):
    """A function () -> {"error": of out, lse to the float64 reference, "limit": what rounding allows}."""
    import jax

    p = gpu_decode.small_cache(case)
    results = jax.device_get(gpu_decode.decoded(case, p, programs))
    truth = lambda: gpu_decode.true_pair(case, jax.device_get(p))
    return lambda: _compared(("out", "lse"), results, case.dtype, case.length, truth)


def decode_timing(case: Case, programs):
    """A function () -> {"seconds": of a call, by burst, and what gpu_decode.of_bandwidth makes of the median}."""
    import jax

    p = gpu_decode.full_cache(case)
    repeat = lambda: gpu_decode.decoded(case, p, programs)
    jax.block_until_ready(repeat())

    def measured():
        seconds = bursts(repeat)
        return {"seconds": seconds, **gpu_decode.of_bandwidth(case, statistics.median(seconds))}

    return measured


def bursts(call) -> list[float]:
    """Seconds of a call, one mean per burst.

    The calls of a burst are issued without waiting, so that the time of issuing hides behind their execution.
    """
    import jax

    def burst(calls):
        start = time.perf_counter()
        for _ in range(calls):
            last = call()
        jax.block_until_ready(last)
        return (time.perf_counter() - start) / calls

    once = burst(1)
    calls = min(_CALLS, max(1, round(_BURST / once)))
    return [once] if once > 1 else [burst(calls) for _ in range(_BURSTS)]  # one burst of an interpreted kernel suffices


def _route(case: Case):
    """(spec, Inputs -> the route's implementation); the latter raises NotImplementedError where the route cannot."""
    from pallas_kernels import masks
    from pallas_kernels.attention import api
    from pallas_kernels.attention.spec import AttentionSpec

    spec = AttentionSpec(
        masks.parse(MASKS[case.mask]), soft_cap=case.soft_cap, partial=case.pieces > 1, block=case.block
    )
    return spec, lambda x: api.select(case.route, x, spec)


# kind -> the function that prepares a case: (case, programs) -> (() -> answer)
KINDS = {
    "right": right,
    "cross_entropy": cross_entropy,
    "time": timing,
    "step": step,
    "decode": decode,
    "decode_time": decode_timing,
}
ALONE = "time", "step", "decode_time"  # kinds whose answers need the GPU alone
# kind -> (case -> arrays, (case, arrays, programs) -> results), for kinds whose programs can be lowered
LOWERED = {
    "right": (small_problem, attended),
    "cross_entropy": (loss_problem, scored),
    "time": (large_problem, timed_results),
    "decode": (gpu_decode.small_cache, gpu_decode.decoded),
    "decode_time": (gpu_decode.full_cache, gpu_decode.decoded),
}
