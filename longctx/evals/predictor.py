"""What the evaluation tasks ask of a model: the loss of every target of a batch, on any mesh."""

import jax
import numpy as np

from longctx import layouts, meshes
from longctx.config import Config, RopeConfig
from longctx.evals.batches import Prediction, rows_at
from longctx.model import functional
from longctx.positions.view import reaches

# FLOPs in about the time that compiling a predictor takes: 5 s on a few cores of a CPU, 10 s with an accelerator.
COMPILING = {"cpu": 2e11, "accelerator": 1e15}


def predictor(config: Config, mesh, params, rope: RopeConfig):
    """batch -> Prediction(nll float32[B, T], top bool[B, T]) (see longctx.evals.api); compiles once per shape.

    As padding, rows are added (rows_computed, and for the data axes) and columns for the layout; results drop them.
    """
    with jax.set_mesh(mesh):
        graph = functional.graph(config.model, config.attention, config.memory)
    whole = jax.sharding.NamedSharding(mesh, meshes.REPLICATED)  # so that every process can read the results
    predictions = jax.jit(
        lambda params, batch, length: functional.predictions(graph, params, batch, rope, length),
        static_argnums=2,
        out_shardings=whole,
    )
    shards = config.mesh.context_shards
    row_unit = mesh.shape["data"] * mesh.shape["fsdp"]
    column_unit = layouts.unit(config.attention.layout, shards)
    token_flops = 2 * sum(x.size for x in jax.tree.leaves(params))
    worth = COMPILING["cpu" if mesh.devices.flat[0].platform == "cpu" else "accelerator"] / token_flops

    def predict(batch):
        rows, columns = batch["tokens"].shape
        more = rows_computed(rows, columns, worth) - rows
        pad = (0, more + -(rows + more) % row_unit), (0, -columns % column_unit)
        padded = {name: np.pad(x, pad) for name, x in batch.items()}
        order = layouts.permutation(config.attention.layout, padded["segments"], shards, reaches(config.model))
        laid_out = {name: layouts.permute(x, order) for name, x in padded.items()}
        with jax.set_mesh(mesh):
            results = predictions(params, meshes.put_whole(laid_out, mesh), columns)
        back = layouts.inverse(order)
        return Prediction(*(layouts.permute(np.asarray(x), back)[:rows, :columns] for x in results))

    return predict


def rows_computed(rows: int, length: int, worth: float) -> int:
    """How many rows are computed for `rows` of a length: the most that a batch has, or half of that, or half again, ...

    Padding so costs less than the rows themselves; but no batch is halved to fewer than `worth` tokens, as those cost
    less than another shape to compile.
    """
    computed = max(rows, rows_at(length))
    while computed // 2 >= rows and computed // 2 * length >= worth:
        computed //= 2
    return computed
