"""What experiments.gpu_check asks of a GPU, one case at a time, and how each is done: in a process that may be lost."""
import dataclasses
import pathlib
import statistics
import time

BATCH_TOKENS, WIDTH = 16384, 2048       # as FlashAttention's benchmarks (arXiv 2407.08608): heads = WIDTH / head size
MASKS = {"causal": "causal", "full": "full", "packed": "causal & segments", "window": "causal & window(100)",
         "sinks": "causal & (window(60) | sinks(4))"}
MODEL = "llama3_1b"


@dataclasses.dataclass(frozen=True)
class Case:
    """One question.

    Attributes:
      kind: a name in KINDS.
      route: an attention kernel, a name in api.IMPLEMENTATIONS.
      op: of "time", forward or backward.
      mask: a name in MASKS.
      pieces: of "right", that the keys are cut into, each attended with the global result.
      block: tokens of a block, for kernels that let it be chosen; 0 is their own choice.
    """
    kind: str
    route: str
    op: str = "forward"
    mask: str = "causal"
    length: int = 512
    head_size: int = 128
    dtype: str = "bfloat16"
    key_heads: int = 0
    pieces: int = 1
    soft_cap: float = 0.0
    block: int = 0

    @property
    def name(self) -> str:
        """What differs from the defaults, in words."""
        changed = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)
                   if getattr(self, field.name) != field.default and field.name not in ("kind", "route", "op", "mask")}
        return " ".join([self.kind, self.route, *([self.op] if self.kind == "time" else []), self.mask,
                         *(f"{name}={value}" for name, value in changed.items())])

    def flops(self) -> float:
        """Of a timed case: useful ones, half of the square under a causal mask; the backward's are 2.5 times those."""
        batch, heads = max(BATCH_TOKENS // self.length, 1), WIDTH // self.head_size
        forward = 4 * batch * heads * self.head_size * self.length**2 * (0.5 if self.mask == "causal" else 1)
        return forward * (1 if self.op == "forward" else 2.5)


class Programs:
    """The compiled functions of a case: those that `export` has left in `folder`, or of the kernels that are here."""

    def __init__(self, case: Case, folder: pathlib.Path | None = None):
        self.case, self.folder = case, folder

    def path(self, name: str) -> pathlib.Path:
        return self.folder / f"{self.case.name} {name}.bin".replace(" ", "_")

    def __call__(self, name: str, f):
        """f(*trees) of arrays, compiled when it is called."""
        import jax
        if self.folder is None or not self.path(name).exists():
            return jax.jit(f)
        loaded = jax.jit(jax.export.deserialize(bytearray(self.path(name).read_bytes())).call)
        return lambda *trees: loaded(*jax.tree.leaves(trees))


class Export(Programs):
    """Writes every function that is called, for a platform; results are zeros."""
    platform = "cuda"

    def __call__(self, name, f):
        import jax
        import jax.numpy as jnp

        def write(*trees):
            leaves, tree = jax.tree.flatten(trees)
            flat = lambda *leaves: f(*jax.tree.unflatten(tree, leaves))
            types = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves]
            checks = [jax.export.DisabledSafetyCheck.custom_call(f"triton_kernel_call{end}") for end in ("", "_ffi")]
            exported = jax.export.export(jax.jit(flat), platforms=[self.platform], disabled_checks=checks)(*types)
            self.path(name).write_bytes(exported.serialize())
            return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(flat, *types))
        return write


def export(case: Case, folder: pathlib.Path, chip: str) -> None:
    """Leaves what `answer` needs of a case in `folder`, for machines without the packages of its kernels.

    Raises NotImplementedError where the route cannot.
    """
    import jax

    from pallas_kernels import gpu_chips
    folder.mkdir(parents=True, exist_ok=True)
    with gpu_chips.target(chip):
        calls = {"right": attended, "time": timed_call}[case.kind]
        jax.eval_shape(lambda p: calls(case, p, Export(case, folder))[0], problem_of(case))


def answer(case: Case, folder: pathlib.Path | None = None) -> dict:
    """What the machine's device says: numbers, or {"cannot": the route's reason}. folder: of exported programs."""
    try:
        return KINDS[case.kind](case, Programs(case, folder))
    except NotImplementedError as error:
        return {"cannot": str(error)}


def problem_of(case: Case):
    """The arrays of a case that is timed, or is to be right."""
    import jax.numpy as jnp

    from experiments.attention_problem import packed, problem
    timed = case.kind == "time"
    rows, heads = (max(BATCH_TOKENS // case.length, 1), WIDTH // case.head_size) if timed else (2, 8)
    tokens = packed(1, rows, case.length, mean=case.length // 4) if case.mask == "packed" else None
    p = problem(0, B=rows, T=case.length, N=heads, K=case.key_heads or heads, H=case.head_size,
                dtype=jnp.dtype(case.dtype), tokens=tokens and (tokens, tokens))
    return p._replace(dlse=jnp.zeros_like(p.dlse))


def attended(case: Case, p, programs):
    """((out, lse, dq, dk, dv),) with the keys in pieces."""
    import jax
    import jax.numpy as jnp

    from pallas_kernels.attention.spec import rows
    spec, module = _route(case)
    cuts = [slice(i * case.length // case.pieces, (i + 1) * case.length // case.pieces) for i in range(case.pieces)]
    at = lambda piece: jax.tree.map(lambda x: x[:, piece], (p.k, p.v, p.tokens[1]))
    forward = lambda q, keys, q_tokens, before: module(q, keys[0]).forward(
        q, *keys[:2], (q_tokens, keys[2]), spec, None, before)
    backward = lambda q, keys, q_tokens, rows: module(q, keys[0]).backward(
        q, *keys[:2], (q_tokens, keys[2]), spec, rows)[:3]
    result = None
    for i, piece in enumerate(cuts):
        result = programs(f"forward {min(i, 1)}", forward)(p.q, at(piece), p.tokens[0], result)
    needed = rows(result, (p.dout, None))
    grads = [programs("backward", backward)(p.q, at(piece), p.tokens[0], needed) for piece in cuts]
    dq = sum(jnp.asarray(dq, jnp.float32) for dq, _, _ in grads)
    return (*result, dq, *(jnp.concatenate([one[i] for one in grads], 1) for i in (1, 2))),


def right(case: Case, programs) -> dict:
    """{"error": of out, lse, dq, dk, dv against the float64 reference, "limit": what rounding allows}."""
    from experiments.attention_problem import relative_error, tolerance, truth
    p = problem_of(case)
    found, = attended(case, p, programs)
    errors = [relative_error(got, want) for got, want in zip(found, truth(p, _route(case)[0]), strict=True)]
    return {"error": dict(zip(("out", "lse", "dq", "dk", "dv"), errors, strict=True)),
            "limit": tolerance(case.dtype, case.length)}


def timed_call(case: Case, p, programs):
    """(results, what gives them once more)."""
    from pallas_kernels.attention.spec import rows
    spec, module = _route(case)
    call, arguments = programs("forward", lambda p: module(p.q, p.k).forward(p.q, p.k, p.v, p.tokens, spec)), (p,)
    if case.op == "backward":
        arguments = p, rows(call(p), (p.dout, None))
        call = programs("backward", lambda p, rows: module(p.q, p.k).backward(p.q, p.k, p.v, p.tokens, spec, rows)[:3])
    return call(*arguments), lambda: call(*arguments)


def timing(case: Case, programs) -> dict:
    """{"seconds": [each run], "tflops": by the median}."""
    import jax

    from experiments.benchmark_worker import timed
    first, again = timed_call(case, problem_of(case), programs)
    jax.block_until_ready(first)
    seconds = timed(lambda: jax.block_until_ready(again()))["seconds"]
    return {"seconds": seconds, "tflops": case.flops() / statistics.median(seconds) / 1e12}


def step(case: Case, programs) -> dict:
    """Seconds of training steps of a model of 1.2e9 parameters on one row, and the device's peak memory."""
    import jax
    import jax.numpy as jnp

    from experiments import config as configs
    from experiments import shapes
    from longctx import meshes, optim, train_step
    from longctx.data import curriculum
    settings = configs.defaults()
    shapes.fill(settings, MODEL, case.length, smoke=case.length < 4096, context=1)
    settings.attention.kernel = case.route
    config = configs.from_config_dict(settings)
    mesh, stages = meshes.make(config.mesh), curriculum.plan(config)
    state, shape = train_step.init_state(config, mesh), (1, stages[0].seq_len)
    tokens = jax.random.randint(jax.random.key(0), shape, 0, config.model.vocab_size, jnp.int32)
    batch = {"tokens": tokens, "targets": tokens, "weights": jnp.ones(shape, jnp.float32),
             "positions": jnp.arange(shape[1], dtype=jnp.int32)[None], "segments": jnp.ones(shape, jnp.int32)}
    batch = jax.device_put(batch, jax.tree.map(lambda x: x.sharding, train_step.abstract_batch(stages[0], mesh)))
    run = train_step.compile_step(config, optim.learning_rate(config.optim, stages), stages[0], mesh)
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        state, _ = run(state, batch)
        jax.block_until_ready(state)
        seconds.append(time.perf_counter() - start)
    peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return {"seconds": seconds, "tokens_per_second": shape[1] / statistics.median(seconds[1:]), "peak_bytes": peak}


def _route(case: Case):
    """(the spec of a call, (q, k) -> the route's module, which raises NotImplementedError where it cannot)."""
    from pallas_kernels import masks
    from pallas_kernels.attention import api
    from pallas_kernels.attention.spec import AttentionSpec
    spec = AttentionSpec(masks.parse(MASKS[case.mask]), soft_cap=case.soft_cap, partial=case.pieces > 1,
                         block=case.block)
    return spec, lambda q, k: api.select(case.route, q, k, spec)


KINDS = {"right": right, "time": timing, "step": step}
