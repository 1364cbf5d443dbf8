"""The model that evaluation tasks ask: the loss of every target of a batch, and greedy answers, on any mesh."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from longctx import layouts, meshes
from longctx.config import Config, RopeConfig
from longctx.errors import as_user_error
from longctx.evals import attended, branches
from longctx.evals.attended import Attended
from longctx.evals.batches import Prediction, rows_at
from longctx.generation import api as generation
from longctx.loss import nll_of_parts, of_weighted
from longctx.model import functional
from longctx.positions.view import reaches, resolve
from pallas_kernels.cross_entropy import api as cross_entropy
from pallas_kernels.cross_entropy import reference
from pallas_kernels.cross_entropy.spec import CrossEntropySpec, capped

# FLOPs in about the time that compiling a predictor takes: 5 s on a few cores of a CPU, 10 s with an accelerator.
COMPILING = {"cpu": 2e11, "accelerator": 1e15}
CHUNK = 1024  # tokens whose logits exist at one time, at most


def rows_computed(rows: int, length: int, worth: float) -> int:
    """The number of rows that are computed for `rows` of a length: the most of a batch, or a half, or a quarter, ...

    Padding so costs less than the rows themselves; but no batch is halved to fewer than `worth` tokens, as those cost
    less than another shape to compile.
    """
    computed = max(rows, rows_at(length))
    while computed // 2 >= rows and computed // 2 * length >= worth:
        computed //= 2
    return computed


def no_more(rows: int, length: int, worth: float) -> int:
    """`rows`: nothing is computed to be dropped, for who makes few shapes of batches."""
    return rows


@dataclasses.dataclass(frozen=True)
class Model:
    """A model as evaluation tasks ask it: calls predict the targets of a batch (see task.Task), `generate` continues.

    Attributes:
      read: (params, batch) -> Prediction.
      branched: (batch, length) -> Prediction, of rows of longctx.evals.branches, whose texts are of up to `length`
        tokens; None where tokens see later ones.
      graph, params: see model.functional; on `mesh`.
      rope: how positions are rotated.
      attends: see attended.reader.
    """

    read: Callable[..., Prediction]
    branched: Callable[..., Prediction] | None
    graph: nnx.GraphDef
    params: dict
    mesh: jax.sharding.Mesh
    rope: RopeConfig
    attends: Attended

    def attended(self, batch: dict[str, np.ndarray], parts: np.ndarray, count: int) -> np.ndarray:
        """f64 [B, count]: the share of attention on each part of a row, see attended.reader."""
        return self.attends(self.params, batch, parts, count)

    def __call__(self, batch: dict[str, np.ndarray]) -> Prediction:
        """The predictions of a batch of rows."""
        return self.read(self.params, batch)

    def generate(
        self,
        prompts: Sequence[np.ndarray],
        count: int,
        length: int,
        stop: Sequence[int],
        enough: Callable[[int, list[int]], bool] | None = None,
    ) -> list[np.ndarray]:
        """At most `count` new tokens of every prompt by greedy decoding, up to one of `stop`.

        length: tokens of prompt and answer, which RoPE scalings that depend on it assume. enough: (index of a prompt,
        its new tokens) -> whether it needs no more; it may get some while others do.
        """
        size, found = rows_at(length), []
        with jax.set_mesh(self.mesh):
            for start in range(0, len(prompts), size):
                some = prompts[start : start + size]
                steps = generation.stream(
                    self.graph, self.params, some, count, rope=self.rope, length=length, stop=tuple(stop)
                )
                found += _written(steps, stop, lambda i, row, start=start: bool(enough and enough(start + i, row)))
        return found


def _written(steps: Iterator[np.ndarray], stop: Sequence[int], enough: Callable[[int, list[int]], bool]):
    """The tokens of each row of generation.stream, int32, up to the step at which every row has ended or has enough."""
    rows, ended = [], np.zeros(0, bool)
    for chosen in steps:
        rows = rows or [[] for _ in chosen]
        ended = ended if len(ended) else np.zeros(len(rows), bool)
        for i, token in enumerate(chosen.tolist()):
            if token != generation.NONE:
                rows[i].append(token)
            ended[i] = ended[i] or token in stop or enough(i, rows[i])
        if ended.all():
            break
    return [np.array(row, np.int32) for row in rows]


def predictor(config: Config, mesh, params, rope: RopeConfig, computed=rows_computed) -> Model:
    """The Model that tasks ask: see longctx.evals.task.

    It compiles once per shape. As padding, rows are added (for the data axes, and as `computed` says) and columns for
    the layout; results drop them.

    computed: (rows, length, worth) -> the number of rows that are computed.
    """
    with jax.set_mesh(mesh):
        params, graph = functional.forward_only(params), functional.graph(config.model, config.attention)
    of_branches = functools.cache(lambda: reader(_with_branches(config), mesh, rope, computed))
    branched = lambda batch, length: of_branches()(params, batch, length)
    ahead = any(resolve(kind)[1].reach()[0] < 0 for kind in config.model.kinds)
    read, attends = reader(config, mesh, rope, computed), attended.reader(graph, config, mesh, rope)
    return Model(read, None if ahead else branched, graph, params, mesh, rope, attends)


def _with_branches(config: Config) -> Config:
    """The config, every layer's mask under the branches of longctx.evals.branches."""
    kinds = tuple(
        dataclasses.replace(kind, mask=f"({kind.mask}) & branches({branches.SIZE})") for kind in config.model.kinds
    )
    return dataclasses.replace(config, model=dataclasses.replace(config.model, pattern=kinds))


def reader(config: Config, mesh, rope: RopeConfig, computed=rows_computed) -> Callable[..., Prediction]:
    """The predictor of a model whose parameters change: (params, batch) -> Prediction; other ones compile nothing.

    A third argument is the length that RoPE scalings take the rows' texts to be of; default: the rows'.

    computed: see `predictor`.
    """
    with jax.set_mesh(mesh):
        graph = functional.graph(config.model, config.attention, config.memory)
    whole = jax.sharding.NamedSharding(mesh, meshes.REPLICATED)  # so that every process can read the results
    predictions = jax.jit(
        lambda params, batch, length: _predictions(graph, params, batch, rope, length),
        static_argnums=2,
        out_shardings=whole,
    )
    shards = config.mesh.context_shards
    row_unit = mesh.shape["data"] * mesh.shape["fsdp"]
    column_unit = layouts.unit(config.attention.layout, shards)
    flops_in_compiling = COMPILING["cpu" if mesh.devices.flat[0].platform == "cpu" else "accelerator"]

    def read(params, batch, length=None):
        rows, columns = batch["tokens"].shape
        token_flops = 2 * sum(x.size for x in jax.tree.leaves(params))
        more = computed(rows, columns, flops_in_compiling / token_flops) - rows
        pad = (0, more + -(rows + more) % row_unit), (0, -columns % column_unit)
        padded = {name: np.pad(x, pad) for name, x in batch.items()}
        arrangement = layouts.arrange(config.attention.layout, padded["segments"], shards, reaches(config.model))
        with jax.set_mesh(mesh):
            results = predictions(params, meshes.put_whole(arrangement.apply(padded), mesh), length or columns)
        nll, top = arrangement.undo(tuple(np.asarray(x) for x in results))
        return Prediction(nll[:rows, :columns], top[:rows, :columns])

    return read


def _predictions(graph, params, batch: dict, rope: RopeConfig, length: int):
    """(nll, top): nats per target, and whether it is what greedy decoding would write; float32 and bool [B, T].

    length: of the rows without the padding that a mesh asks for.
    """
    model, x = functional.hidden(graph, params, batch, rope, length)
    return read_head(x, model.head_weight(), batch["targets"], batch["weights"], model.config.logit_soft_cap)


def read_head(x, head, targets, weights, soft_cap: float = 0.0):
    """(nll float32, top bool), each [B, T]: the loss of every target in nats, and whether no logit is above its own, so
    that greedy decoding would write it. NaN and False for targets of weight 0, of which most are left out of the head.

    x: hidden states BTD; head: [D, V] cut over `tensor` in V; targets: int32 [B, T]; weights: [B, T]. Runs under
    jax.set_mesh. At most CHUNK rows of logits exist. Raises UserError for shapes and dtypes that do not go together.
    """
    as_user_error(cross_entropy.check, x, head, targets, "BT")

    def scores(head, x, targets):
        logits = capped(x, head, CrossEntropySpec())
        read = CrossEntropySpec(soft_cap).cap(logits)  # `top` is of the logits before: a cap rounds close ones to one
        return reference.of_logits(read, targets), (reference.target_logit(logits, targets), logits.max(-1))

    def local(x, head, targets, weights):
        x = jax.lax.pcast(x, "tensor", to="varying")  # as the results of `scores` are
        tokens = x.reshape(-1, x.shape[-1]), (targets - jax.lax.axis_index("tensor") * head.shape[1]).reshape(-1)
        parts, (score, best) = of_weighted(scores, weights, -(-targets.size // CHUNK))(head, *tokens)
        top = jax.lax.psum(score, "tensor") >= jax.lax.pmax(best, "tensor")  # all shards but one score 0: exact
        nll, top, asked = nll_of_parts(*parts).reshape(targets.shape), top.reshape(targets.shape), weights != 0
        return jnp.where(asked, nll, jnp.nan), top & asked

    specs = (meshes.HIDDEN, meshes.specs(head), meshes.TOKENS, meshes.TOKENS)
    return jax.shard_map(local, in_specs=specs, out_specs=(meshes.TOKENS,) * 2)(x, head, targets, weights)
