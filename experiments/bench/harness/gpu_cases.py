"""What gpu_check asks of a GPU, one case at a time, and how each is done: in a process that may be lost.

A case has two parts: all that is compiled, and, where it is timed, the rest, for which it must have the GPU alone.
Imports what a machine with jax, flax and optax has, and nothing else of the project's requirements.
"""

import dataclasses
import pathlib
import statistics
import time

MASKS = {
    "causal": "causal",
    "full": "full",
    "packed": "causal & segments",
    "window": "causal & window(100)",
    "sinks": "causal & (window(60) | sinks(4))",
}
PEER = "jax_nn"  # the route that is jax.nn.dot_product_attention(implementation="cudnn")
MODEL = dict(vocab_size=32768, layers=8, d_model=2048, mlp_dim=8192, heads=16, kv_heads=4, head_dim=128, tied_head=True)
_WIDTH, _VOCABULARY = 256, 1000  # of hidden states, and of their head, for cross-entropy
_STEPS = 4
_BURST, _BURSTS, _CALLS = 0.05, 9, 100  # seconds of a burst of calls, how many, and the most calls of one


@dataclasses.dataclass(frozen=True)
class Case:
    """One question.

    Attributes:
      kind: a name in KINDS.
      route: a kernel, a name in IMPLEMENTATIONS of attention or cross-entropy; for "time" also PEER.
      op: of "time", forward or backward.
      mask: a name in MASKS.
      rows, length, heads, kv_heads, head_dim, dtype: of the arrays; kv_heads=0 is as many as heads.
      pieces: that queries and keys are cut into, as by a ring; each pair's backward is given the global results.
      block: tokens of a block, for kernels that let it be chosen; 0 is their own choice.
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

    @property
    def problem(self) -> str:
        """What differs from the defaults, in words, but for the op; rows and heads are not said."""
        said = [self.kind, self.route, *([self.mask] if self.kind in ("right", "time") else [])]
        silent = "kind", "route", "op", "mask", "rows", "heads"
        changed = [field for field in dataclasses.fields(self) if getattr(self, field.name) != field.default]
        return " ".join(said + [f"{f.name}={getattr(self, f.name)}" for f in changed if f.name not in silent])

    @property
    def name(self) -> str:
        """The problem, and what is timed of it."""
        return self.problem + (f" {self.op}" if self.kind == "time" else "")

    def flops(self) -> float:
        """Of a timed case: useful ones, half of the square under a causal mask; the backward's are 2.5 times those."""
        forward = 4 * self.rows * self.heads * self.head_dim * self.length**2 * (0.5 if self.mask == "causal" else 1)
        return forward * (1 if self.op == "forward" else 2.5)


class Programs:
    """The compiled functions of a case: those that `export` has left in `folder`, or of the kernels that are here.

    made: those of all cases so far, which cases of one problem share.
    """

    def __init__(self, case: Case, folder: pathlib.Path | None = None, made: dict | None = None):
        self.case, self.folder, self.made = case, folder, {} if made is None else made

    def path(self, name: str) -> pathlib.Path:
        return self.folder / f"{self.case.problem} {name}.bin".replace(" ", "_")

    def __call__(self, name: str, f):
        """f(*trees) of arrays, compiled when it is called."""
        key = self.case.problem, name
        if key not in self.made:
            self.made[key] = self.make(name, f)
        return self.made[key]

    def make(self, name, f):
        import jax

        if self.folder is None or not self.path(name).exists():
            return jax.jit(f)
        loaded = jax.jit(jax.export.deserialize(bytearray(self.path(name).read_bytes())).call)
        return lambda *trees: loaded(*jax.tree.leaves(trees))


class Lowered(Programs):
    """Lowers every function that is called, for a platform; results are zeros."""

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
    """Writes them, but for those that are there."""

    def keep(self, name, f, types):
        import jax

        if not self.path(name).exists():
            checks = [jax.export.DisabledSafetyCheck.custom_call(f"triton_kernel_call{end}") for end in ("", "_ffi")]
            exported = jax.export.export(f, platforms=[self.platform], disabled_checks=checks)(*types)
            self.path(name).write_bytes(exported.serialize())


def lower(programs: Lowered, chip: str) -> None:
    """Has all functions of a case lowered, as for a chip. Raises NotImplementedError where the route cannot."""
    import jax

    from pallas_kernels import gpu_chips

    case = programs.case
    problem, results = LOWERED[case.kind]
    with gpu_chips.target(chip):
        jax.eval_shape(lambda p: results(case, p, programs), jax.eval_shape(lambda: problem(case)))


def export(case: Case, folder: pathlib.Path, chip: str) -> None:
    """Leaves what a case needs in `folder`, for machines without the packages of its kernels; not what is there.

    Raises NotImplementedError where the route cannot.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lower(Export(case, folder), chip)


class Answers:
    """The answers of one process.

    Args:
      folder: of exported programs.
      chip: in a rehearsal, what this machine cannot run is lowered for it.
    """

    def __init__(self, folder: pathlib.Path | None = None, chip: str | None = None):
        self.folder, self.chip, self.made, self.ready = folder, chip, {}, {}

    def prepare(self, case: Case) -> dict:
        """Compiles all of a case and runs it once; {"cannot": why} where the route, or this machine, cannot."""
        refused = self._tried(lambda: self.ready.update({case: self._prepared(case)}))
        if refused and self.chip and case.kind in LOWERED:
            return self._tried(lambda: lower(Lowered(case), self.chip)) or {"lowered": f"for {self.chip}, not run"}
        return refused

    def _prepared(self, case):
        return KINDS[case.kind](case, Programs(case, self.folder, self.made))

    def _tried(self, do):
        try:
            do()
        except NotImplementedError as error:
            return {"cannot": str(error)}
        except ModuleNotFoundError as error:
            return {"cannot": f"needs {error.name}, which is not installed"}
        return {}

    def answer(self, case: Case) -> dict:
        """What the machine's device says: numbers, or what stands in the way."""
        refused = {} if case in self.ready else self.prepare(case)
        return refused or self.ready.pop(case)()


def small_problem(case: Case):
    """The arrays of an attention that is to be right."""
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
    """Arrays of a timed case, drawn on the device."""
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
    """(out, lse, dq, dk, dv) with queries and keys in pieces: forward goes on from the pair of the pieces before, and
    backward is given the RowStats over all keys."""
    import jax
    import jax.numpy as jnp

    from pallas_kernels.attention.pair import Inputs, Pair, row_stats

    spec, route = _route(case)
    cuts = [slice(i * case.length // case.pieces, (i + 1) * case.length // case.pieces) for i in range(case.pieces)]
    pieces = lambda *tree: [jax.tree.map(lambda x, cut=cut: x[:, cut], tree) for cut in cuts]
    forward = lambda x, initial: tuple(route(x).forward(x, spec, initial))  # no Pair, which could not be exported
    backward = lambda x, stats: route(x).backward(x, spec, stats)[:3]
    keys, pairs, grads = pieces(p.k, p.v, p.k_info), [], []
    for q, q_info, dout in pieces(p.q, p.q_info, p.dout):
        inputs, pair = [Inputs(q, k, v, q_info, k_info) for k, v, k_info in keys], None
        for i, x in enumerate(inputs):
            pair = Pair(*programs(f"forward {min(i, 1)}", forward)(x, pair))
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
    """() -> {"error": of out, lse, dq, dk, dv against the float64 reference, "limit": what rounding allows}."""
    import jax

    from pallas_kernels.testing import truth

    p = small_problem(case)
    found = jax.device_get(attended(case, p, programs))
    return lambda: _compared(
        ("out", "lse", "dq", "dk", "dv"),
        found,
        case.dtype,
        case.length,
        lambda: truth(jax.device_get(p), _route(case)[0]),
    )


def _compared(names, found, dtype, terms, truth):
    """Errors of what was found. The truth is computed on the CPU, apart from the device that is asked."""
    import jax

    from pallas_kernels.testing import tolerance

    with jax.default_device(jax.devices("cpu")[0]):
        errors = [_error(got, want) for got, want in zip(found, truth(), strict=True)]
    return {"error": dict(zip(names, errors, strict=True)), "limit": tolerance(dtype, terms)}


def _error(got, want) -> float:
    """Infinite where not the same numbers are finite."""
    import numpy as np

    from pallas_kernels.testing import relative_error

    same = (np.isfinite(np.asarray(got, np.float64)) == np.isfinite(want)).all()
    return relative_error(got, want) if same else float("inf")


def loss_problem(case: Case):
    """(hidden states, head, targets, cotangents of score and lse) of a cross-entropy."""
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
    """() -> {"error": of score, lse, dx, dhead against the float64 reference, "limit"}."""
    import jax

    p = loss_problem(case)
    found = jax.device_get(scored(case, p, programs))
    return lambda: _compared(
        ("score", "lse", "dx", "dhead"), found, case.dtype, _VOCABULARY, lambda: _true_scores(jax.device_get(p))
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
    """(results, what gives them once more)."""
    from pallas_kernels.attention.pair import Pair, row_stats

    (spec, route), x = _route(case), p.inputs()
    call, arguments = programs("forward", lambda x: tuple(route(x).forward(x, spec))), (x,)
    if case.op == "backward":
        arguments = x, row_stats(Pair(*call(x)), (p.dout, None))
        call = programs("backward", lambda x, stats: route(x).backward(x, spec, stats)[:3])
    return call(*arguments), lambda: call(*arguments)


def peer_call(case: Case, p, programs):
    """Forward and backward of jax.nn's attention, by cuDNN on a GPU."""
    import jax

    how = {"is_causal": case.mask == "causal", "implementation": "cudnn" if jax.default_backend() == "gpu" else "xla"}
    attend = programs("forward", lambda q, k, v: jax.nn.dot_product_attention(q, k, v, **how))
    call, arguments = attend, (p.q, p.k, p.v)
    if case.op == "backward":
        arguments = jax.vjp(attend, *arguments)[1], p.dout
        call = programs("backward", lambda pull, dout: pull(dout))
    return call(*arguments), lambda: call(*arguments)


def timing(case: Case, programs):
    """() -> {"seconds": of a call, by burst, "tflops": by the median}."""
    import jax

    first, again = (peer_call if case.route == PEER else timed_call)(case, large_problem(case), programs)
    jax.block_until_ready(first)

    def measured():
        seconds = bursts(again)
        return {"seconds": seconds, "tflops": case.flops() / statistics.median(seconds) / 1e12}

    return measured


def bursts(call) -> list[float]:
    """Seconds of a call, as means of bursts: the calls of one are issued without waiting, so that the time of issuing
    them is hidden behind them."""
    import jax

    def burst(calls):
        start = time.perf_counter()
        for _ in range(calls):
            last = call()
        jax.block_until_ready(last)
        return (time.perf_counter() - start) / calls

    once = burst(1)
    calls = min(_CALLS, max(1, round(_BURST / once)))
    return [once] if once > 1 else [burst(calls) for _ in range(_BURSTS)]  # of an interpreted kernel one will do


def step(case: Case, programs):
    """() -> seconds of training steps of MODEL on one row, losses, and the process's peak of the device's memory."""
    import jax

    from longctx import meshes, optim, train_step
    from longctx.data import curriculum

    config = _run(case)
    mesh, stages = meshes.make(config.mesh), curriculum.plan(config)
    run = train_step.compile_step(config, optim.learning_rate(config.optim, stages), stages[0], mesh)
    state, batch = train_step.init_state(config, mesh), _batch(config, stages[0], mesh)
    jax.block_until_ready(state)

    def measured(state=state):
        seconds, losses = [], []
        for _ in range(_STEPS):
            start = time.perf_counter()
            state, metrics = run(state, batch)
            jax.block_until_ready(state)
            seconds.append(time.perf_counter() - start)
            losses.append(float(metrics["loss"]))
        peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
        return {
            "seconds": seconds,
            "losses": losses,
            "peak_bytes": peak,
            "tokens_per_second": stages[0].batch_tokens / statistics.median(seconds[1:]),
        }

    return measured


def _run(case: Case):
    """The settings of a run whose step is timed; short rows are for a model of the same kind in miniature."""
    from longctx import config as settings

    small = dict(layers=2, d_model=64, mlp_dim=128, heads=2, kv_heads=1, head_dim=64, vocab_size=512)
    model = MODEL if case.length >= 1024 else MODEL | small
    return settings.Config(
        batch_tokens=case.length,
        stages=(settings.StageConfig(seq_len=case.length, steps=1000),),
        model=settings.ModelConfig(**model),
        attention=settings.AttentionConfig(kernel=case.route),
    )


def _batch(config, stage, mesh):
    import jax
    import jax.numpy as jnp

    from longctx import train_step

    shape = stage.batch_size, stage.seq_len
    tokens = jax.random.randint(jax.random.key(0), shape, 0, config.model.vocab_size, jnp.int32)
    batch = {
        "tokens": tokens,
        "targets": jnp.roll(tokens, -1, 1),
        "weights": jnp.ones(shape, jnp.float32),
        "positions": jnp.arange(shape[1], dtype=jnp.int32)[None],
        "segments": jnp.ones(shape, jnp.int32),
    }
    return jax.device_put(batch, jax.tree.map(lambda x: x.sharding, train_step.abstract_batch(stage, mesh)))


def _route(case: Case):
    """(the spec of a call, Inputs -> the route's implementation, which raises NotImplementedError where it cannot)."""
    from pallas_kernels import masks
    from pallas_kernels.attention import api
    from pallas_kernels.attention.spec import AttentionSpec

    spec = AttentionSpec(
        masks.parse(MASKS[case.mask]), soft_cap=case.soft_cap, partial=case.pieces > 1, block=case.block
    )
    return spec, lambda x: api.select(case.route, x, spec)


# a case is prepared by these: (case, programs) -> the rest, () -> an answer
KINDS = {"right": right, "cross_entropy": cross_entropy, "time": timing, "step": step}
ALONE = "time", "step"  # of KINDS, whose rest is to have the GPU alone
# of those whose programs can be lowered apart: (case -> arrays, (case, arrays, programs) -> results)
LOWERED = {
    "right": (small_problem, attended),
    "cross_entropy": (loss_problem, scored),
    "time": (large_problem, lambda *call: timed_call(*call)[0]),
}
