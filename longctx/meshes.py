"""The device mesh, its axis names, the PartitionSpecs of activations, and how weights are stored and gathered.

Axes: `data` and `fsdp` cut the batch, `context_outer` and `context` cut the sequence (two levels: between pods or
nodes, and within one), `tensor` cuts heads, mlp and vocabulary. Along `fsdp` and both axes of the sequence each device
stores a share of every large weight. All are Explicit: a sharding is part of an array's type, and a gather is a
`gather_weight` that someone wrote. A weight states its own spec where it is made (longctx/model/linear.py).
"""

import contextlib
import math

import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from longctx.config import MeshConfig
from longctx.errors import UserError, as_user_error
from pallas_kernels.arguments import require_whole
from pallas_kernels.select import traced_platform

MOST = 2**20  # devices, as good as any number
AXES = tuple(MeshConfig().axes)
BATCH = ("data", "fsdp")
CONTEXT = ("context_outer", "context")

TOKENS = P(BATCH, CONTEXT)  # [B, T]
HIDDEN = P(BATCH, CONTEXT, None)  # BTD
HEADS = P(BATCH, CONTEXT, "tensor", None)  # BTNH
LSE = P(BATCH, CONTEXT, "tensor")  # BTN
HEAD_TABLE = P("tensor", None)  # [N, D]: numbers of each query head
WHOLE_HEADS = P(BATCH, None, "tensor", None)  # BTNH and BTN where T does not divide by the context shards
WHOLE_LSE = P(BATCH, None, "tensor")
LOGITS = P(BATCH, CONTEXT, "tensor")  # BTV
HEAD = P(None, "tensor")  # DV, its shares gathered
CACHED_KEYS = P(None, BATCH, "tensor", None, CONTEXT)  # the slots of stacked layers [layers, B, K, H, S]
CACHED_VALUES = P(None, BATCH, "tensor", CONTEXT, None)  # [layers, B, K, S, H]
ROWS = P(BATCH, None)  # [B, D]: hidden states of one token of each row
ROW_LOGITS = P(BATCH, "tensor")  # [B, V]
REPLICATED = P()

# the axes along which devices store shares of a weight, gathered from the last one on
SHARES = (*CONTEXT[::-1], "fsdp")


def simulate(count: int, processes: int = 1) -> None:
    """Make jax show `count` CPU devices, an equal part of them in each process.

    Call before jax is used; NPROC must be in the environment before it starts.
    """
    as_user_error(require_whole, "mesh.simulate", count, 1, MOST)
    if count % processes:
        raise UserError(f"mesh.simulate={count} must divide by the {processes} processes.")
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", count // processes)


def context_shards() -> int:
    """The number of parts into which the mesh of `jax.set_mesh` cuts the sequence."""
    axes = sizes()
    return math.prod(axes[axis] for axis in CONTEXT)


def sizes() -> dict[str, int]:
    """Sizes of the axes of the mesh of `jax.set_mesh`; all 1 where there is none. Raises UserError for other axes."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return dict.fromkeys(AXES, 1)
    explicit = {
        name
        for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True)
        if kind == jax.sharding.AxisType.Explicit
    }
    if not explicit.issuperset(AXES):
        raise UserError(
            f"the mesh of jax.set_mesh has the Explicit axes ({', '.join(sorted(explicit))}), and must "
            f"have {', '.join(AXES)}: meshes.make(MeshConfig(...)) makes one."
        )
    return dict(mesh.shape)


def make(config: MeshConfig, devices=None) -> jax.sharding.Mesh:
    """The mesh of `config` over the first devices there are.

    Raises:
      UserError: for sizes that are not whole numbers from 1 on; when the mesh needs more devices than there are, or
        leaves out some of those of several processes.
    """
    for axis, size in config.axes.items():
        as_user_error(require_whole, f"mesh.{axis}", size, 1, MOST)
    devices = jax.devices() if devices is None else devices
    need = config.devices
    if need < len(devices) and jax.process_count() > 1:
        raise UserError(
            f"mesh ({config}) uses {need} of the {len(devices)} devices of {jax.process_count()} "
            "processes; make an axis larger: it must use all."
        )
    if need > len(devices):
        raise UserError(
            f"mesh ({config}) needs {need} devices, but there are {len(devices)} ({devices[0].platform}). "
            f"Make the axes smaller, or simulate them on the CPU with --config.mesh.simulate={need}."
        )
    axes = config.axes
    return jax.make_mesh(
        tuple(axes.values()),
        tuple(axes),
        devices=devices[:need],
        axis_types=(jax.sharding.AxisType.Explicit,) * len(axes),
    )


def for_shapes():
    """A context in which shapes of weights can be asked for: the mesh of `jax.set_mesh`, or else one device's."""
    if not jax.sharding.get_abstract_mesh().empty:
        return contextlib.nullcontext()
    explicit = (jax.sharding.AxisType.Explicit,) * len(AXES)
    return jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((1,) * len(AXES), AXES, explicit))


def all_context() -> jax.sharding.Mesh:
    """A mesh of all devices, along `context`: they cut the sequence."""
    return make(MeshConfig(context=len(jax.devices())))


def stored_spec(spec: P, shape: tuple[int, ...]) -> P:
    """The PartitionSpec that the mesh of `jax.set_mesh` stores a weight of one layer by.

    spec: of the weight, in which "fsdp" stands for SHARES, or where these do not divide the dimension for `fsdp` alone.
    """
    mesh = jax.sharding.get_abstract_mesh()
    shares = math.prod(mesh.shape[axis] for axis in SHARES)
    whole = lambda axis, size: SHARES if axis == "fsdp" and size % shares == 0 else axis
    return P(*(whole(axis, size) for axis, size in zip(spec, shape, strict=True)))


def gathered_spec(spec: P) -> P:
    """The PartitionSpec of a weight of that `spec` when its shares are gathered."""
    return P(*(None if axis == "fsdp" else axis for axis in spec))


def specs(tree):
    """The PartitionSpecs of a tree of arrays."""
    return jax.tree.map(lambda x: jax.typeof(x).sharding.spec, tree)


def gather_weight(w: jax.Array, spec: P) -> jax.Array:
    """A weight of that `spec` with its shares gathered, the all-gather of FSDP; as it is where it has no shares.

    The type of the result is `reduced` along all axes that cut tokens: a gradient stays a sum on each device until the
    transpose sums and scatters it at once, a reduce-scatter in w's dtype. Along axes without shares, such as `data`,
    it is summed after that.
    """
    return _gather(w, spec, frozenset({*BATCH, *CONTEXT}))


def gather_weights(weights: dict, specs: dict, dtype) -> dict:
    """A tree of weights, those with shares gathered and in `dtype`, in which they are used; specs: a tree of theirs.

    Gradients are summed over devices where they arise, for many are zeros: of a part of a layer by all of its weights.
    """
    gathered = lambda w, spec: _gather(w.astype(dtype), spec, frozenset()) if "fsdp" in spec else w
    return jax.tree.map(gathered, weights, specs)


def _gather(w, spec: P, reduced: frozenset[str]):
    """A weight of that `spec` with its shares gathered, its type `reduced` along these axes.

    On simulated devices jax inserts the collectives, on channels of their own: those of shard_map share one there, and
    nothing keeps these from meeting a ring's (see collectives.after).
    """
    stored, whole = jax.typeof(w).sharding.spec, gathered_spec(spec)
    one_device = jax.sharding.get_abstract_mesh().size == 1  # of which jax lowers no such types
    if stored == whole or one_device or traced_platform() == "cpu":
        return jax.sharding.reshard(w, whole)
    dim = list(spec).index("fsdp")
    axes = SHARES if stored[dim] == SHARES else ("fsdp",)
    alike = P(*stored, reduced=reduced.difference(axes))

    # an axis at a time, the slow ones while it is small; of 64 chips at once the TPU compiler makes an all-reduce
    def gather(w):
        for axis in reversed(axes):
            w = jax.lax.all_gather(w, axis, axis=dim, tiled=True, to="reduced" if reduced else "invarying")
        return w

    return jax.shard_map(gather, in_specs=alike, out_specs=P(*whole, reduced=reduced))(jax.sharding.reshard(w, alike))


def data_shard(mesh: jax.sharding.Mesh) -> tuple[int, int]:
    """The part of every batch's rows that this process feeds: (index, count), the index-th of `count` equal parts.

    Processes along the context and tensor axes hold the same rows and share an index.
    """
    rows = mesh.shape["data"] * mesh.shape["fsdp"]
    by_row = mesh.devices.reshape(rows, -1)
    own = [r for r in range(rows) if any(d.process_index == jax.process_index() for d in by_row[r])]
    even = own == list(range(own[0], own[-1] + 1)) and own[0] % len(own) == 0
    if not even:
        raise UserError(
            f"mesh.data={mesh.shape['data']} x mesh.fsdp={mesh.shape['fsdp']} cannot be divided over "
            f"{jax.process_count()} processes: one would hold parts {own} of the {rows} of a batch; "
            "powers of two work."
        )
    return own[0] // len(own), rows // len(own)


def put_batch(batch: dict, mesh: jax.sharding.Mesh) -> dict:
    """The rows of this process's data_shard, as numpy arrays, made global arrays [B, T] cut by TOKENS.

    "sources" [B, ..., sources], which data.mixture makes, is cut by rows only.
    """
    return _global_arrays(batch, mesh, data_shard(mesh)[1])


def put_whole(batch: dict, mesh: jax.sharding.Mesh) -> dict:
    """Global arrays [B, T], cut by TOKENS, of a batch that every process holds whole as numpy arrays."""
    return _global_arrays(batch, mesh, 1)


def _global_arrays(batch: dict, mesh: jax.sharding.Mesh, parts: int) -> dict:
    shardings = {name: NamedSharding(mesh, P(BATCH) if name == "sources" else TOKENS) for name in batch}
    if jax.process_count() == 1:
        return jax.device_put(batch, shardings)
    place = lambda x, sharding: jax.make_array_from_process_local_data(sharding, x, (x.shape[0] * parts, *x.shape[1:]))
    return {name: place(x, shardings[name]) for name, x in batch.items()}
