"""Flash attention on TPU: Pallas Mosaic kernels with tables of active blocks, see tiles.py and tpu_kernels.py.

On a CPU the same kernels run interpreted: slow, exact, for tests. Which of the two is decided when the call is lowered,
so that a program can be compiled for a TPU from a machine that has none. Interpreted inside a shard_map they need
check_vma=False: jax's interpreter does not type its loops as varying over the mesh.
"""
import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.attention import tiles, tpu_kernels
from pallas_kernels.attention.spec import AttentionSpec, Rows

BLOCK = 512                                   # tokens, where the spec does not say
_LANES = 128                                  # blocks are multiples of this
_HEAD_SIZES = 64, 128, 256                    # others are padded to one of these, or to a multiple of 128
_TABLES = 2**19                               # bytes of SMEM, half of what there is, that tables of blocks may take
_VMEM = 64 * 2**20


def why_not(q, k, spec: AttentionSpec, platform: str) -> str | None:
    """What stands in the way of this call, or None."""
    if platform not in ("tpu", "cpu"):
        return "runs on TPU, and interpreted on CPU for tests"
    if spec.bias:
        return "has no bias on scores"
    if q.dtype not in (jnp.bfloat16, jnp.float32) or k.dtype != q.dtype:
        return f"takes bfloat16 or float32 alone, not {q.dtype} queries with {k.dtype} keys"
    T, S = q.shape[1], k.shape[1]
    size = 4 * q.shape[0] * pl.cdiv(T, _block(spec, T)) * pl.cdiv(S, _block(spec, S))
    if size > _TABLES:
        return f"its table of {T} x {S} tokens in blocks takes {size} bytes of scalar memory, and may take {_TABLES}"
    return None


def forward(q, k, v, tokens, spec: AttentionSpec, table=None):
    """(out [B,T,N,H], lse float32 [B,T,N]); see reference.forward for the definition."""
    (B, T, N, H), S, G = q.shape, k.shape[1], q.shape[2] // k.shape[2]
    bq, bk = _block(spec, T), _block(spec, S)
    tokens = tiles.pad_tokens(tokens[0], bq), tiles.pad_tokens(tokens[1], bk)
    plan = tiles.schedule(tiles.relations(spec.mask, *tokens, bq, bk))
    q, k, v = _heads_first(q, bq), _heads_first(k, bk), _heads_first(v, bk)
    query = lambda b, h, i, j, *_: (b, h, i, 0)
    key = lambda b, h, i, j, order, *_: (b, jax.lax.div(h, G), order[b, i, j], 0)
    queries, keys = pl.BlockSpec((None, None, bq, q.shape[3]), query), pl.BlockSpec((None, None, bk, k.shape[3]), key)
    q_row = lambda b, h, i, j, *_: (b, 0, i)
    k_row = lambda b, h, i, j, order, *_: (b, 0, order[b, i, j])
    grid = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=len(plan),
        grid=(B, N, plan.order.shape[1], _steps(plan)),
        in_specs=[pl.BlockSpec((None, 2, bq), q_row), pl.BlockSpec((None, 2, bk), k_row), queries, keys, keys],
        out_specs=[queries, pl.BlockSpec((None, None, 1, bq), lambda b, h, i, j, *_: (b, h, 0, i))],
        scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in ((bq, 1), (bq, 1), (bq, q.shape[3]))])
    kernel = functools.partial(tpu_kernels.forward, spec=spec, scale=spec.score_scale(H))
    out, lse = _call(kernel, grid, "parallel parallel parallel arbitrary",
                     [_like(q, q.shape, spec.result_dtype(q)), _like(q, (B, N, 1, q.shape[2]), jnp.float32)],
                     [*plan, *map(_stacked, tokens), q, k, v])
    return _heads_last(out, T, H), lse[:, :, 0, :T].swapaxes(1, 2)


def backward(q, k, v, tokens, spec: AttentionSpec, rows: Rows, table=None):
    """(dq, dk, dv, None) of these keys and queries; see reference.backward."""
    (B, T, N, H), (S, K) = q.shape, k.shape[1:3]
    G = N // K
    bq, bk = _block(spec, T), _block(spec, S)
    tokens = tiles.pad_tokens(tokens[0], bq), tiles.pad_tokens(tokens[1], bk)
    plan = tiles.schedule(tiles.relations(spec.mask, *tokens, bq, bk).swapaxes(1, 2))
    # a row that sees nothing has only masked pairs: any value does
    lse = jnp.where(jnp.isfinite(rows.lse), rows.lse, 0.0)
    q, dout, lse, delta = (_heads_first(x, bq) for x in (q, rows.dout.astype(q.dtype), lse, rows.delta))
    k, v = _heads_first(k, bk), _heads_first(v, bk)
    query = lambda b, h, i, g, j, order, *_: (b, h * G + g, order[b, i, j], 0)
    queries = pl.BlockSpec((None, None, bq, q.shape[3]), query)
    keys = pl.BlockSpec((None, None, bk, k.shape[3]), lambda b, h, i, g, j, *_: (b, h, i, 0))
    row = pl.BlockSpec((None, None, 1, bq), lambda b, h, i, g, j, order, *_: (b, h * G + g, 0, order[b, i, j]))
    q_row = lambda b, h, i, g, j, order, *_: (b, 0, order[b, i, j])
    k_row = lambda b, h, i, g, j, *_: (b, 0, i)
    anywhere = pl.BlockSpec(memory_space=pl.ANY)
    grid = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=len(plan),
        grid=(B, K, plan.order.shape[1], G, _steps(plan)),
        in_specs=[pl.BlockSpec((None, 2, bq), q_row), pl.BlockSpec((None, 2, bk), k_row),
                  queries, keys, keys, queries, row, row, anywhere],
        out_specs=[anywhere, keys, keys],
        scratch_shapes=[*(pltpu.VMEM((block, q.shape[3]), jnp.float32) for block in (bq, bk, bk)),
                        pltpu.SemaphoreType.DMA])
    kernel = functools.partial(tpu_kernels.backward, spec=spec, scale=spec.score_scale(H), groups=G)
    operands = [*plan, *map(_stacked, tokens), q, k, v, dout, lse, delta, jnp.zeros_like(q, jnp.float32)]
    dq, dk, dv = _call(kernel, grid, "parallel parallel arbitrary arbitrary arbitrary",
                       [_like(q, q.shape, jnp.float32), *(_like(x, x.shape, spec.result_dtype(x)) for x in (k, v))],
                       operands, {len(operands) - 1: 0})
    dq = (spec.score_scale(H) * dq).astype(spec.result_dtype(q))
    return _heads_last(dq, T, H), _heads_last(dk, S, H), _heads_last(dv, S, H), None


def _call(kernel, grid_spec, semantics, out_shape, operands, aliases=None):
    """The kernel on these operands: compiled where the call is lowered for a TPU, interpreted elsewhere."""
    def run(interpret):
        parameters = pltpu.CompilerParams(dimension_semantics=tuple(semantics.split()), vmem_limit_bytes=_VMEM)
        return pl.pallas_call(kernel, out_shape, grid_spec=grid_spec, input_output_aliases=aliases or {},
                              compiler_params=parameters, interpret=interpret, name=f"attention_{kernel.func.__name__}")
    return jax.lax.platform_dependent(*operands, tpu=run(False), default=run(True))


def _block(spec, length):
    """The block for a side of this length: never much longer than the side itself."""
    return min(pl.cdiv(spec.block or BLOCK, _LANES), pl.cdiv(length, _LANES)) * _LANES


def _steps(plan):
    """Length of the grid's last axis: what the busiest outer block needs, one at least: the last writes results."""
    return jnp.maximum(plan.active.max(), 1)


def _stacked(tokens):
    """int32 [B, 2, T]: positions and segments."""
    return jnp.stack(tokens, 1)


def _heads_first(x, block):
    """BTNH -> BNTH, padded to whole blocks and a native head size; numbers per row BTN -> BN1T."""
    x = tiles.pad(x, 1, block)
    if x.ndim == 3:
        return x.swapaxes(1, 2)[:, :, None]
    native = next((size for size in _HEAD_SIZES if x.shape[3] <= size), _LANES)
    return tiles.pad(x, 3, native).swapaxes(1, 2)


def _heads_last(x, length, head_size):
    """BNTH -> BTNH without the padding."""
    return x[:, :, :length, :head_size].swapaxes(1, 2)


def _like(x, shape, dtype):
    """The type of a result that varies over the mesh axes that x varies over."""
    return jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=jax.typeof(x).manual_axis_type)
