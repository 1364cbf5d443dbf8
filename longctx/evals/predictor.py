"""What the evaluation tasks ask of a model: the loss of every target of a batch, on any mesh."""
import jax
import numpy as np

from longctx import layouts, meshes
from longctx.config import Config, RopeConfig
from longctx.evals.batches import Prediction
from longctx.model import functional
from longctx.positions.view import reaches


def predictor(config: Config, mesh, params, rope: RopeConfig):
    """batch -> Prediction(nll float32[B, T], top bool[B, T]) (see longctx.evals.api); compiles once per shape.

    Rows are added for the data axes and columns for the layout, as padding, and dropped from the result.
    """
    with jax.set_mesh(mesh):
        graph = functional.graph(config.model, config.attention, config.memory)
    whole = jax.sharding.NamedSharding(mesh, meshes.REPLICATED)         # so that every process can read the results
    predictions = jax.jit(lambda params, batch, length: functional.predictions(graph, params, batch, rope, length),
                          static_argnums=2, out_shardings=whole)
    shards = config.mesh.context_shards
    row_unit = mesh.shape["data"] * mesh.shape["fsdp"]
    column_unit = layouts.unit(config.attention.layout, shards)

    def predict(batch):
        rows, columns = batch["tokens"].shape
        pad = (0, -rows % row_unit), (0, -columns % column_unit)
        padded = {name: np.pad(x, pad) for name, x in batch.items()}
        order = layouts.permutation(config.attention.layout, padded["segments"], shards, reaches(config.model))
        laid_out = {name: layouts.permute(x, order) for name, x in padded.items()}
        with jax.set_mesh(mesh):
            results = predictions(params, meshes.put_whole(laid_out, mesh), columns)
        back = layouts.inverse(order)
        return Prediction(*(layouts.permute(np.asarray(x), back)[:rows, :columns] for x in results))
    return predict
