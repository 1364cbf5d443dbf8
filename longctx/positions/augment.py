"""Training at a short length for a longer one: positions that are spread out, and frequencies that are stretched.

An augmentation maps a row, (key, positions [T], segments [T], target), to a dict of its changes: "positions", and
perhaps "stretch", a scalar for rope.tables or Clex.tables. Positions count from 0 in each document; they stay in order
there, and below `target` tokens where the document is shorter. Padding stays as it is. The order of the columns makes
no difference. To add one: a function, and a line in AUGMENTATIONS.
"""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from longctx import meshes

SINKS = 4  # positions that E^2-LLM never shifts


def none(key, positions, segments, target: int) -> dict:
    """No change of the row."""
    return {}


def pose(key, positions, segments, target: int) -> dict:
    """PoSE (arXiv 2309.10400): each document, of n tokens, is cut in its first half, and what follows the cut is moved
    by up to target - n. It goes with a RoPE scaling of factor target / T."""
    where, how_far = jax.random.split(key)
    sizes = _sizes(positions, segments)
    cut = jax.random.randint(where, sizes.shape, 1, (sizes + 1) // 2 + 1)
    move = jax.random.randint(how_far, sizes.shape, 0, jnp.maximum(target - sizes, 0) + 1)
    return {"positions": positions + jnp.where(positions >= cut[segments], move[segments], 0)}


def e2llm(key, positions, segments, target: int) -> dict:
    """E^2-LLM (arXiv 2401.06951): a whole stretch g up to target / T divides the frequencies of the row, and each
    document is moved by up to (g - 1) T, all but its first SINKS tokens, so that no angle exceeds those of T tokens.
    Trained like this, a model reads g T tokens with the linear scaling of factor g."""
    which, how_far = jax.random.split(key)
    T = len(positions)
    g = jax.random.randint(which, (), 1, max(target // T, 1) + 1)
    move = jax.random.randint(how_far, (T + 1,), 0, (g - 1) * T + 1)
    return {"positions": positions + jnp.where(positions >= SINKS, move[segments], 0), "stretch": g.astype(jnp.float32)}


def clex(key, positions, segments, target: int) -> dict:
    """CLEX (arXiv 2310.16450): a whole stretch t up to target / T for the row, and for each document, of n tokens,
    random places out of n t, the first and the last among them."""
    which, where = jax.random.split(key)
    t = jax.random.randint(which, (), 1, max(target // len(positions), 1) + 1)
    sizes = _sizes(positions, segments)[segments]
    # distinct places in order: draws in order, out of n t - n + 1 with repetition, plus 0, 1, .. n - 1
    spare = sizes * (t - 1)
    column = jnp.searchsorted(jnp.sort(segments), segments) + positions  # in the natural order of the row
    draws = jax.random.bits(where, positions.shape)[column] % (spare + 1).astype(jnp.uint32)
    draws = jnp.where(positions == 0, 0, jnp.where(positions == sizes - 1, spare, draws.astype(jnp.int32)))
    in_order = draws[jnp.lexsort((draws, segments))][column]
    return {"positions": jnp.where(segments > 0, positions + in_order, positions), "stretch": t.astype(jnp.float32)}


AUGMENTATIONS = {"none": none, "pose": pose, "e2llm": e2llm, "clex": clex}


def augmented(batch: dict, key: jax.Array, name: str, target: int) -> dict:
    """The batch with the positions int32 [B, T], and perhaps a "stretch" float32 [B], of an augmentation.

    Runs under jax.set_mesh. Each row draws its own numbers from `key`, the same on every mesh and in every layout.

    Args:
      batch: as data.rows makes them, cut by meshes.TOKENS.
      name: in AUGMENTATIONS.
      target: the length in tokens that the model is trained for.
    """

    def local(key, row, positions, segments):
        change = lambda row, *columns: AUGMENTATIONS[name](jax.random.fold_in(key, row), *columns, target)
        return jax.vmap(change)(row, positions, segments)

    rows = P(meshes.BATCH)  # whole: documents lie on several shards
    args = (jnp.arange(len(batch["positions"])), batch["positions"], batch["segments"])
    changed = jax.shard_map(local, in_specs=(P(), rows, rows, rows), out_specs=rows)(
        key, *(jax.sharding.reshard(x, rows) for x in args)
    )
    if "positions" in changed:
        changed["positions"] = jax.sharding.reshard(changed["positions"], meshes.TOKENS)
    return batch | changed


def _sizes(positions, segments):
    """Number of tokens of each document [T + 1], by its segment; 1 for segments without a document."""
    return jnp.zeros(len(positions) + 1, jnp.int32).at[segments].max(positions) + 1
