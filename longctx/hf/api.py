"""load, save and Model: checkpoints of Hugging Face in and out.

model = hf.load("folder", rope_scaling={"rope_type": "yarn", "factor": 4.0})
logits = model(ids)
tokens = model.generate(ids, max_new_tokens=100)
hf.save(model, "another")
"""

import dataclasses
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from longctx import layouts, meshes
from longctx.config import AttentionConfig, DataConfig, MeshConfig, ModelConfig, RopeConfig
from longctx.data import special_tokens
from longctx.errors import UserError, unknown_name
from longctx.generation import api as generation
from longctx.generation.request import stops, token_ids
from longctx.hf import files, folder, parameters, rope, text
from longctx.hf.architectures import ARCHITECTURES, differences, explicit, express
from longctx.hf.settings import DTYPES
from longctx.model import functional
from longctx.positions.view import reaches


@dataclasses.dataclass(frozen=True)
class Model:
    """A model and its parameters on a mesh.

    Attributes:
      config, params: as longctx.model.functional takes them.
      source: the folder that it came from, or None, and what its config.json said.
      ends: the tokens that end a row when it generates.
    """

    config: ModelConfig
    params: dict
    mesh: jax.sharding.Mesh
    source: pathlib.Path | None = None
    settings: dict | None = None
    attention: AttentionConfig = AttentionConfig()
    ends: tuple[int, ...] = ()

    @functools.cached_property
    def graph(self):
        """The static part, for longctx.model.functional."""
        with jax.set_mesh(self.mesh):
            return functional.graph(self.config, self.attention)

    def __call__(self, ids) -> np.ndarray:
        """Logits float32 [B, T, V] of token ids int [B, T]; RoPE scalings that look at the length see T.

        Raises UserError for ids that are not integers, or not below V.
        """
        ids = token_ids("ids", ids, self.config.vocab_size, "BT")
        (B, T), shards = ids.shape, self.mesh.shape["context_outer"] * self.mesh.shape["context"]
        rows, columns = self.mesh.shape["data"] * self.mesh.shape["fsdp"], layouts.unit(self.attention.layout, shards)
        batch = {
            "tokens": ids,
            "positions": np.broadcast_to(np.arange(T, dtype=np.int32), (B, T)),
            "segments": np.ones((B, T), np.int32),
        }
        batch = {name: np.pad(x, ((0, -B % rows), (0, -T % columns))) for name, x in batch.items()}
        order = layouts.permutation(self.attention.layout, batch["segments"], shards, reaches(self.config))
        batch = {name: layouts.permute(x, order) for name, x in batch.items()}
        with jax.set_mesh(self.mesh):
            logits = _logits(self.graph, self.params, meshes.put_whole(batch, self.mesh), T)
            logits = np.asarray(jax.device_put(logits, NamedSharding(self.mesh, meshes.REPLICATED)))
        return layouts.permute(logits, layouts.inverse(order))[:B, :T]

    def generate(self, ids, max_new_tokens: int, stop: tuple[int, ...] | None = None, **how):
        """The prompts and what follows them: int32 [B, T + max_new_tokens] of ids int [B, T], or of a list of rows of
        any lengths a list of rows.

        A row that ends early is filled up with the token that ended it (in a list it is not).

        Args:
          stop: tokens that end a row; default those of config.json and generation_config.json.
          how: chunk, temperature, top_p, key, length, rope: as for generation.api.stream. Default: greedy.
        """
        several = isinstance(ids, list | tuple)
        vocab_size = self.config.vocab_size
        stop = stops(self.ends, vocab_size) if stop is None else stop
        prompts = (
            [token_ids(f"ids[{i}]", row, vocab_size, "T") for i, row in enumerate(ids)]
            if several
            else list(token_ids("ids", ids, vocab_size, "BT"))
        )
        with jax.set_mesh(self.mesh):
            new = generation.generate(self.graph, self.params, prompts, max_new_tokens, stop=stop, **how)
        if several:
            return [np.concatenate(both) for both in zip(prompts, new, strict=True)]
        return np.stack(
            [
                np.pad(np.concatenate(both), (0, max_new_tokens - len(both[1])), "edge")
                for both in zip(prompts, new, strict=True)
            ]
        )


@functools.partial(jax.jit, static_argnums=(0, 3))
def _logits(graph, params, batch, length):
    return functional.logits(graph, params, batch, length=length)


def load(
    path, rope_scaling: dict | RopeConfig | None = None, mesh: jax.sharding.Mesh | None = None, dtype: str | None = None
) -> Model:
    """The model in a folder of Hugging Face: config.json and safetensors, in one file or several.

    Each device reads its own share of each tensor; beside the result, host memory holds that of one layer's tensor.

    Args:
      rope_scaling: instead of the folder's: what config.json would call rope_scaling or rope_parameters, which changes
        what it says: see rope.override; or a RopeConfig, whole but for what the weights are made for (pairing,
        rotary_fraction, and original_length where it is 0).
      mesh: default one device.
      dtype: of parameters and computation, one of settings.DTYPES; default the file's, which may differ by tensor.

    Raises:
      UserError: for an architecture, a setting or a tensor that is not known; for tensors that are missing or of
        another shape; for files that are missing, truncated or damaged; for numbers that `dtype` does not hold, and
        parameters that memory does not.
    """
    if dtype is not None and dtype not in DTYPES:
        raise unknown_name("dtype", dtype, DTYPES)
    source = pathlib.Path(path)
    config = folder.model_config(source, rope_scaling)
    if dtype:
        config = dataclasses.replace(config, dtype=dtype, param_dtype=dtype)
    settings, stored = folder.settings(source), files.tensors(source)
    architecture = folder.architecture_of(settings)
    mesh = mesh or meshes.make(MeshConfig())
    with jax.set_mesh(mesh):
        shapes = jax.eval_shape(lambda: functional.init(config, AttentionConfig(), jax.random.key(0)))
        located = parameters.locate(architecture, config, shapes)
        head = architecture.outside["head"].name if config.tied_head else None
        parameters.check(located, stored, head, str(source))
        if head in stored:
            _require_tied(stored[head], stored[architecture.outside["embedding.table"].name], head)
        asked = dtype and jnp.dtype(dtype)
        parameters.require_room(located, shapes, stored, asked, str(source))
        place = lambda leaf, parameter: parameters.load(
            parameter, stored, NamedSharding(mesh, leaf.sharding.spec), asked, jnp.dtype(config.dtype)
        )
        params = jax.tree.map(place, shapes, located)
    return Model(config, params, mesh, source, settings, ends=special_tokens.ends(source))


def _require_tied(head: files.Stored, table: files.Stored, name: str) -> None:
    if head.shape != table.shape or not np.array_equal(head.view(), table.view()):
        raise UserError(f"config.json ties the output head to the embedding, and {name} is another.")


def save(
    model: Model | dict,
    directory,
    config: ModelConfig | None = None,
    source=None,
    max_shard_size: int = 5 * 10**9,
    longest: int = 0,
    data: DataConfig | None = None,
) -> None:
    """Writes a folder that from_pretrained of transformers loads. Tensors are written as they are, bit by bit.

    Args:
      model: a Model, or a training state {"params": ...}, whose `config` must be given.
      source: the folder of Hugging Face that a state came from, whose config.json and tokenizer go along; a Model
        knows its own. Without one, config.json says what `config` does, if an architecture can.
      max_shard_size: bytes of a file, but for a tensor that is larger.
      longest: row that it was trained on, in tokens; max_position_embeddings is the largest of that, the source's own
        and what its RoPE was stretched to, but see rope.reach. model_max_length of the tokenizer follows.
      data: of a run, whose tokenizer goes along with its bos, eos and pad; default the source's.

    Raises:
      UserError: where no architecture has a setting of the model, or the directory holds weights already.
    """
    directory = pathlib.Path(directory)
    if not isinstance(model, Model):
        if config is None:
            raise UserError("config is needed to save a training state: the ModelConfig that it was trained with.")
        source = pathlib.Path(source) if source else None
        mesh = jax.tree.leaves(model["params"])[0].sharding.mesh
        model = Model(config, model["params"], mesh, source, folder.settings(source) if source else None)
    if found := sorted(directory.glob("*.safetensors*")):
        raise UserError(f"{directory} holds {found[0].name} already; name a folder without weights.")
    model, content = _described(model, longest)
    content = content | (text.ids(data) if data else {})
    located = parameters.locate(ARCHITECTURES[content["model_type"]], model.config, model.params)
    active = jax.process_index() == 0
    if active:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / folder.CONFIG).write_text(json.dumps(content, indent=2) + "\n")
        _write_tokenizer(model, directory, data, content["max_position_embeddings"])
    with jax.set_mesh(model.mesh):
        tensors = parameters.Tensors(located, model.params)
        files.write(directory, tensors.planned, tensors, max_shard_size, active)


def _described(model: Model, longest: int) -> tuple[Model, dict]:
    """config.json of a model, and the model as it says it."""
    config, content = model.config, model.settings
    if content is None:
        model_type, content, said = express(config, max(longest, rope.stretched(config.rope)))
        return _rescaled(model, said), content | {"torch_dtype": config.param_dtype}
    if config.dtype != (folder.dtype_of(content) or config.param_dtype):
        content = {name: value for name, value in content.items() if name != "dtype"} | {"torch_dtype": config.dtype}
    if differences(config, folder.read(content)):
        content = _with_rope(content, config, longest)
    elif longest > folder.longest(content) and not rope.bound(config.rope):
        content = content | {"max_position_embeddings": longest}
    if differing := differences(config, folder.read(content)):
        raise UserError(f"config.json of {model.source} cannot say {', '.join(differing)}.")
    return model, content


def _with_rope(content: dict, config: ModelConfig, longest: int) -> dict:
    """A config.json with the RoPE of `config`, in the dialect that every version of transformers reads."""
    architecture = folder.architecture_of(content)
    longest = max(longest, folder.longest(content), rope.stretched(config.rope))
    written = architecture.write(explicit(config), longest)
    said = {name: written[name] for name in folder.ROPE if name in written}
    return {name: value for name, value in content.items() if name not in folder.ROPE} | said


def _write_tokenizer(model: Model, directory: pathlib.Path, data: DataConfig | None, longest: int) -> None:
    if data:
        text.write(data, directory, longest)
    elif model.source:
        text.copy(model.source, directory)
        if longest != folder.longest(model.settings):
            text.limit(directory, longest)


def _rescaled(model: Model, said: ModelConfig) -> Model:
    """The same model with the embedding scale of `said`; a head that is tied to it stays as it was by the last norm."""
    scale = explicit(model.config).embedding_scale / said.embedding_scale
    if scale == 1:
        return dataclasses.replace(model, config=said)
    params = dict(model.params)
    times = lambda x, factor: (x.astype(jnp.float32) * factor).astype(x.dtype)
    with jax.set_mesh(model.mesh):
        params["embedding"] = {"table": times(params["embedding"]["table"], scale)}
        if said.tied_head:
            params["norm"] = jax.tree.map(lambda x: times(x, 1 / scale), params["norm"])
    return dataclasses.replace(model, config=said, params=params)
