"""The training of a model on the recall task alone, without a workdir: for experiments that compare such models."""

from experiments.run import alone
from experiments.settings.tree import Settings


def trained(config: Settings, mesh, params=None) -> tuple[dict, dict]:
    """Trains on the recall task as alone.trained does; the loss is in nats per value."""
    from experiments.run import batches
    from longctx.data.generated.recall import RecallRows

    rows = lambda stage: RecallRows(config.recall, stage.seq_len, config.seed)
    return alone.trained(config, mesh, lambda stage: batches.of_rows(config, mesh, rows(stage), stage), params)
