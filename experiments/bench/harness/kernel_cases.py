"""The attention kernels that bench.kernels compares, ours and public ones: how to call each, and the work that it does.

Public kernels are compiled with the block sizes that their authors tuned on hardware, where these are published, else
with one reasonable choice.
"""

import contextlib
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench.harness.flops import MATMULS, attention_flops
from experiments.hardware.tpu_schedule import Work
from experiments.settings import extras
from pallas_kernels import masks, tpu_chips
from pallas_kernels.attention import api
from pallas_kernels.attention.pair import RowStats
from pallas_kernels.attention.spec import AttentionSpec
from pallas_kernels.attention.tpu import decode, pairs
from pallas_kernels.attention.tpu import sizes as tpu_sizes
from pallas_kernels.masks import TokenInfo
from pallas_kernels.testing import input_types


@dataclasses.dataclass(frozen=True)
class Case:
    """A kernel and a problem to run it on, at any length.

    Attributes:
      kernel: a name in KERNELS (for TPUs), GPU_KERNELS or DECODE.
      op: forward or backward.
      mask: an expression of the mask algebra; public kernels know causal and full only.
      head_dim, heads, kv_heads, dtype: of the arrays; batch 1.
      documents: the number of equally long documents in the row, for masks with segments.
      sizes: fields of our TPU kernel's Blocks, in place of the tuned ones.
      queries: for our GPU kernels: as many, at the end of the row, as in decoding; 0 is as many as keys.
    """

    kernel: str
    op: str
    mask: str = "causal"
    head_dim: int = 128
    heads: int = 8
    kv_heads: int = 8
    dtype: str = "bfloat16"
    documents: int = 1
    sizes: tuple[int, ...] = ()
    queries: int = 0

    def call(self, length: int):
        """(function, types of its arguments): the kernel at a length."""
        return (EVERY | DECODE)[self.kernel].call(self, length)

    def blocks(self, length: int) -> tuple:
        """The block sizes of a TPU kernel at a length; two lengths with equal sizes have the same schedule."""
        return (KERNELS | DECODE)[self.kernel].blocks(self, length)

    def work(self, length: int) -> Work:
        """The work of a TPU kernel at a length."""
        return (KERNELS | DECODE)[self.kernel].work(self, length)

    def flops(self, length: int) -> float:
        """Useful matmul FLOPs: those of visible pairs, which are half the square under a causal mask."""
        density = self.queries / length or {"causal": 0.5}.get(self.mask, 1.0) / self.documents
        return attention_flops(self.op, self.heads, length, self.head_dim, density)

    def arrays(self, length: int):
        """The types of q and k with heads first, [N, T, H] and [K, T, H]."""
        return (
            jax.ShapeDtypeStruct((heads, length, self.head_dim), self.dtype) for heads in (self.heads, self.kv_heads)
        )


@dataclasses.dataclass(frozen=True)
class Ours:
    """Our kernel that pallas_kernels.attention.api.IMPLEMENTATIONS knows by `name`."""

    name: str
    module: str = "pallas_kernels"

    def call(self, case, length):
        """See Case.call."""
        spec = AttentionSpec(masks.parse(case.mask))
        q, k = (
            jax.ShapeDtypeStruct((1, tokens, heads, case.head_dim), case.dtype)
            for tokens, heads in ((case.queries or length, case.heads), (length, case.kv_heads))
        )
        row, x = jax.ShapeDtypeStruct(q.shape[:3], jnp.float32), input_types(q, k)

        def call(x, *stats):
            with _sized(case):
                return getattr(api.select(self.name, x, spec), case.op)(x, spec, *stats)

        return call, (x,) if case.op == "forward" else (x, RowStats(q, row, row))


class Longctx(Ours):
    """Our TPU kernels, whose work is counted from the list of block pairs that they run."""

    def blocks(self, case, length):
        """See Case.blocks."""
        with _sized(case):
            return tpu_sizes.choose(case.op, case.dtype, case.head_dim, (length, length))

    def work(self, case, length):
        """See Case.work."""
        blocks = self.blocks(case, length)
        info = documents(case, length)
        kinds = np.asarray(pairs.kinds(masks.parse(case.mask), info, info, *blocks[:3]))
        count = {kind: case.heads * int((kinds == kind).sum()) for kind in (masks.FULL, pairs.LOWER, masks.PARTIAL)}
        runs = dict(count)
        if case.op == "forward":
            outer = case.heads * kinds.shape[1]
            runs[masks.PARTIAL] = case.heads * _tiles(case, blocks, info, kinds == masks.PARTIAL)
        else:
            for kind in (masks.FULL, masks.PARTIAL):  # strip by strip
                runs[kind] *= blocks.q // blocks.rows
            kinds, outer = kinds.swapaxes(1, 2), case.kv_heads * kinds.shape[2]
        steps = sum(count.values()) + case.heads * int((kinds == masks.EMPTY).all(-1).sum())
        return Work(f"attention_{case.op}", case.flops(length), tuple(runs.values()), steps, outer)


class Decode(Ours):
    """Our TPU decode kernel, whose one query stands behind all keys; these lie as in a KV cache."""

    def call(self, case, length):
        """See Case.call."""
        (x, spec), heads = self._inputs(case, length), (1, case.kv_heads)
        k, v = (
            jax.ShapeDtypeStruct((*heads, *shape), case.dtype)
            for shape in ((case.head_dim, length), (length, case.head_dim))
        )

        def call(q, infos, k, v):
            keys = dict(zip(("q_info", "k_info"), infos, strict=True), k=k.transpose(0, 3, 1, 2), v=v.swapaxes(1, 2))
            return api.select(self.name, x, spec).forward(x._replace(q=q, **keys), spec)

        return call, (x.q, (x.q_info, x.k_info), k, v)

    def blocks(self, case, length):
        """The keys and the key heads of a step."""
        cut = decode.cut_of(*self._inputs(case, length))
        return cut.block, cut.packs * cut.pack

    def work(self, case, length):
        """See Case.work."""
        block, heads = self.blocks(case, length)
        groups = case.kv_heads // heads
        steps, flops = groups * -(-length // block), 4 * case.heads * length * case.head_dim
        return Work("attention_decode", flops, (steps, 0), steps, groups)

    def _inputs(self, case, length):
        """(types of the inputs, spec)."""
        q, k = (
            jax.ShapeDtypeStruct((1, tokens, heads, case.head_dim), case.dtype)
            for tokens, heads in ((1, case.heads), (length, case.kv_heads))
        )
        return input_types(q, k), AttentionSpec(masks.parse(case.mask))


@contextlib.contextmanager
def _sized(case):
    """A context in which a case's own block sizes, if it has any, replace the tuned ones."""
    tuned, key = dict(tpu_sizes.SIZES), (case.op, tpu_chips.current(), tpu_sizes.native_head_size(case.head_dim))
    if case.sizes:
        tpu_sizes.SIZES[key] = tpu_sizes.Blocks(*case.sizes)
    yield
    tpu_sizes.SIZES.clear()
    tpu_sizes.SIZES.update(tuned)


def _tiles(case, blocks, info, chosen) -> int:
    """The number of tiles with visible pairs in the `chosen` block pairs [1, n, m], as the forward kernel counts."""
    q = masks.Ranges(*(x[..., :, None] for x in masks.block_ranges(info, blocks.rows)))
    k = masks.Ranges(*(x[..., None, :] for x in masks.block_ranges(info, blocks.chunk)))
    visible = ~np.asarray(masks.nothing(masks.parse(case.mask), q, k))
    n, m = chosen.shape[1:]
    return int(visible.reshape(1, n, blocks.q // blocks.rows, m, blocks.k // blocks.chunk).sum((2, 4))[chosen].sum())


def documents(case: Case, length: int) -> TokenInfo:
    """Positions and segments, int32 [1, length], of a case's row of equally long documents."""
    index = jnp.arange(length, dtype=jnp.int32)[None]
    size = -(-length // case.documents)
    return TokenInfo(index % size, 1 + index // size)


@dataclasses.dataclass(frozen=True)
class Peer:
    """A public TPU kernel.

    Attributes:
      module: that it is imported from.
      build: (case, length, blocks) -> (function of q, k, v, types).
      names: of its kernel in the dump, by op.
      sizes: (queries, keys, keys computed at a time) by (op, chip, head dim, mask), by the first three of these, or by
        op.
      dense: whether its grid holds EMPTY blocks too.
      split: whether full and masked blocks are separate regions.
    """

    module: str
    build: object
    names: dict
    sizes: dict
    dense: bool = False
    split: bool = False

    def call(self, case, length):
        """See Case.call."""
        forward, (q, k, v) = self.build(case, length, self.blocks(case, length))
        if case.op == "forward":
            return forward, (q, k, v)
        return lambda q, k, v, dout: jax.vjp(forward, q, k, v)[1](dout), (q, k, v, q)

    def work(self, case, length):
        """See Case.work."""
        q_block, k_block, _ = self.blocks(case, length)
        i, j = np.arange(length // q_block)[:, None], np.arange(length // k_block)
        full = np.broadcast_to((case.mask == "full") | ((j + 1) * k_block - 1 <= i * q_block), (i.size, j.size))
        visible = np.broadcast_to((case.mask == "full") | (j * k_block <= (i + 1) * q_block - 1), (i.size, j.size))
        runs = int(full.sum()), int((visible & ~full).sum())
        runs = runs if self.split and case.mask != "full" else (sum(runs),)
        outer = length // (q_block if case.op == "forward" else k_block)
        steps = visible.size if self.dense else sum(runs)
        return Work(
            self.names[case.op],
            case.flops(length),
            tuple(case.heads * n for n in runs),
            case.heads * steps,
            case.heads * outer,
        )

    def blocks(self, case, length):
        """See Case.blocks."""
        key = case.op, tpu_chips.current(), case.head_dim, case.mask
        return self.sizes.get(key) or self.sizes.get(key[:3]) or self.sizes[case.op]


def _splash_sizes(blocks) -> dict:
    """The block sizes of splash attention's configs: equal ones in the forward and the backward."""
    q, k, chunk = blocks
    return {
        "block_q": q,
        "block_kv": k,
        "block_kv_compute": chunk,
        "block_q_dkv": q,
        "block_kv_dkv": k,
        "block_kv_dkv_compute": chunk,
    }


def _splash(case, length, blocks):
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as mask

    head_mask = {"causal": mask.CausalMask, "full": mask.FullMask}[case.mask]((length, length))
    sizes = kernel.BlockSizes(**_splash_sizes(blocks), use_fused_bwd_kernel=True)
    make = kernel.make_splash_mha_single_device
    q, k = case.arrays(length)
    return make(mask.MultiHeadMask([head_mask] * case.heads), block_sizes=sizes), (q, k, k)


def _flash(case, length, blocks):
    from jax.experimental.pallas.ops.tpu import flash_attention as flash

    bq, bk, chunk = blocks
    sizes = flash.BlockSizes(block_q=bq, block_k_major=bk, block_k=chunk, block_b=1)
    q, k = (jax.ShapeDtypeStruct((1, *x.shape), x.dtype) for x in case.arrays(length))
    return functools.partial(flash.flash_attention, causal=case.mask == "causal", block_sizes=sizes), (q, k, k)


def _tokamax(case, length, blocks):
    from tokamax._src.ops.experimental.tpu.splash_attention import splash_attention_kernel as kernel
    from tokamax._src.ops.experimental.tpu.splash_attention import splash_attention_mask as mask

    head_mask = {"causal": mask.CausalMask, "full": mask.FullMask}[case.mask]((length, length))
    layout = kernel.QKVLayout.SEQ_MINOR
    config = kernel.SplashConfig(
        **_splash_sizes(blocks),
        use_base2_exp=True,
        use_experimental_scheduler=case.op == "forward",
        **(dict(q_layout=layout, k_layout=layout, v_layout=layout) if case.op == "forward" else {}),
    )
    q, k = case.arrays(length)
    return kernel.make_splash_mha_single_device(head_mask, config=config), (q, k, k)


KERNELS = {
    "longctx": Longctx("tpu"),
    "tokamax": Peer(
        "tokamax._src",
        _tokamax,
        {"forward": "fwd", "backward": "dkv"},
        {
            "forward": (2048, 2048, 512),
            ("forward", "v5e", 128): (2048, 2048, 256),
            ("forward", "v5e", 128, "full"): (1024, 1024, 256),
            ("forward", "v5p", 128): (2048, 2048, 256),
            ("forward", "v5e", 64): (1024, 1024, 256),
            ("forward", "v6e", 64): (1024, 1024, 512),
            "backward": (1024, 1024, 512),
        },
        split=True,
    ),
    "splash": Peer(
        "jax.experimental.pallas",
        _splash,
        {"forward": "fwd", "backward": "dkv"},
        {"forward": (1024, 1024, 512), "backward": (1024, 1024, 512)},
        dense=True,
    ),
    "flash": Peer(
        "jax.experimental.pallas", _flash, {"forward": "flash_attention"}, {"forward": (1024, 1024, 512)}, dense=True
    ),
}


@dataclasses.dataclass(frozen=True)
class GpuPeer:
    """A public GPU kernel.

    Attributes:
      build: case -> function of q, k, v.
      dtype: that it is written for; None: any.
    """

    names = MATMULS
    build: object
    dtype: str | None = None
    module: str = "jax.experimental.pallas"

    def call(self, case, length):
        """See Case.call."""
        q, k = (
            jax.ShapeDtypeStruct((1, length, heads, case.head_dim), self.dtype or case.dtype)
            for heads in (case.heads, case.kv_heads)
        )
        forward = self.build(case)
        if case.op == "forward":
            return forward, (q, k, k)
        return lambda q, k, v, dout: jax.vjp(forward, q, k, v)[1](dout), (q, k, k, q)


def _jax_triton_lowered(case):
    from jax.experimental.pallas.ops.gpu import attention

    # 64 x 64 in the backward: narrower blocks are not compiled to Hopper's matmul instructions
    sizes = attention.BlockSizes(128, 128, *[64] * 4)
    return lambda q, k, v: attention.mha(q, k, v, None, case.head_dim**-0.5, case.mask == "causal", sizes)


def _jax_mosaic(case):
    from jax.experimental.pallas.ops.gpu import attention_mgpu

    config = attention_mgpu.TuningConfig(64, 128, 2, True, case.mask == "causal", 2, *[64] * 4)
    return lambda q, k, v: attention_mgpu.attention(q, k, v, config)


_GPU_ORDERS = [order for at, order in api.PREFERENCE.items() if at == "gpu" or isinstance(at, tuple)]
GPU_KERNELS = {
    **{name: Ours(name) for order in _GPU_ORDERS for name in order},
    "jax_pallas_triton": GpuPeer(_jax_triton_lowered),
    "jax_mosaic_demo": GpuPeer(_jax_mosaic, "float16"),
}
EVERY = KERNELS | GPU_KERNELS
DECODE = {"tpu_decode": Decode("tpu_decode")}  # bench.decode_kernel's


def missing(kernel: str) -> str:
    """The reason why this machine cannot compile a kernel, or "" where it can."""
    return extras.missing(EVERY[kernel].module.split(".")[0])
