"""What experiments.gpu_check asks of a GPU, one case at a time, and how each is done: in a process that may be lost."""
import dataclasses
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


def answer(case: Case) -> dict:
    """What the machine's device says: numbers, or {"cannot": the route's reason}."""
    try:
        return KINDS[case.kind](case)
    except NotImplementedError as error:
        return {"cannot": str(error)}


def right(case: Case) -> dict:
    """{"error": of out, lse, dq, dk, dv against the float64 reference, "limit": what rounding allows}."""
    import jax
    import jax.numpy as jnp

    from experiments.attention_problem import packed, problem, relative_error, tolerance, truth
    from pallas_kernels.attention.spec import rows
    tokens = packed(1, 2, case.length, mean=case.length // 4) if case.mask == "packed" else None
    p = problem(0, B=2, T=case.length, N=8, K=case.key_heads or 8, H=case.head_size, dtype=jnp.dtype(case.dtype),
                tokens=tokens and (tokens, tokens))
    p = p._replace(dlse=jnp.zeros_like(p.dlse))
    module, spec = _selected(case, p.q, p.k)
    cuts = [slice(i * case.length // case.pieces, (i + 1) * case.length // case.pieces) for i in range(case.pieces)]
    at = lambda piece: jax.tree.map(lambda x: x[:, piece], (p.k, p.v, p.tokens[1]))
    call = lambda op, piece, *more: jax.jit(lambda q, keys, q_tokens, *more: op(
        q, *keys[:2], (q_tokens, keys[2]), spec, *more))(p.q, at(piece), p.tokens[0], *more)
    result = None
    for piece in cuts:
        result = call(module.forward, piece, None, result)
    needed = rows(result, (p.dout, None))
    grads = [call(module.backward, piece, needed)[:3] for piece in cuts]
    dq = sum(jnp.asarray(dq, jnp.float32) for dq, _, _ in grads)
    dk, dv = (jnp.concatenate(parts, 1) for parts in ([g[i] for g in grads] for i in (1, 2)))
    errors = [relative_error(got, want) for got, want in zip((*result, dq, dk, dv), truth(p, spec), strict=True)]
    return {"error": dict(zip(("out", "lse", "dq", "dk", "dv"), errors, strict=True)),
            "limit": tolerance(case.dtype, case.length)}


def timing(case: Case) -> dict:
    """{"seconds": [each run], "tflops": by the median}."""
    import jax

    from experiments.attention_problem import problem
    from experiments.benchmark_worker import timed
    from pallas_kernels.attention.spec import Rows
    heads = WIDTH // case.head_size
    p = problem(0, B=max(BATCH_TOKENS // case.length, 1), T=case.length, N=heads, K=case.key_heads or heads,
                H=case.head_size, dtype=case.dtype)
    module, spec = _selected(case, p.q, p.k)
    forward = jax.jit(lambda p: module.forward(p.q, p.k, p.v, p.tokens, spec))
    call, arguments = forward, (p,)
    if case.op == "backward":
        out, lse = forward(p)
        delta = (p.dout.astype("float32") * out.astype("float32")).sum(-1)
        call = jax.jit(lambda p, rows: module.backward(p.q, p.k, p.v, p.tokens, spec, rows)[:3])
        arguments = p, Rows(p.dout, lse, delta)
    run = lambda: jax.block_until_ready(call(*arguments))
    run()
    seconds = timed(run)["seconds"]
    return {"seconds": seconds, "tflops": case.flops() / statistics.median(seconds) / 1e12}


def step(case: Case) -> dict:
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


def _selected(case: Case, q, k):
    """(the route's module, the spec of a call). Raises NotImplementedError where it cannot."""
    from pallas_kernels import masks
    from pallas_kernels.attention import api
    from pallas_kernels.attention.spec import AttentionSpec
    spec = AttentionSpec(masks.parse(MASKS[case.mask]), soft_cap=case.soft_cap, partial=case.pieces > 1,
                         block=case.block)
    return api.select(case.route, q, k, spec), spec


KINDS = {"right": right, "time": timing, "step": step}
