"""load, save and Model: Hugging Face checkpoints in and out.

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
from longctx.config import AttentionConfig, DataConfig, LoraConfig, MeshConfig, ModelConfig, RopeConfig
from longctx.data import special_tokens
from longctx.errors import UserError, unknown_name
from longctx.generation import api as generation
from longctx.generation.request import stops, token_ids
from longctx.hf import adapter as adapters
from longctx.hf import files, folder, parameters, rope, sources, text
from longctx.hf.architectures import ARCHITECTURES, Architecture, differences, explicit, express
from longctx.hf.settings import DTYPES
from longctx.model import functional, lora, paths
from longctx.positions import methods
from longctx.positions.view import reaches, resolve


@dataclasses.dataclass(frozen=True)
class Model:
    """A model with its parameters on a mesh.

    Attributes:
      config, params: see longctx.model.functional.
      source, settings: the folder that the model was loaded from and the content of its config.json, or None.
      ends: the tokens that end a row in generation.
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
        """The static part of the model, see longctx.model.functional."""
        with jax.set_mesh(self.mesh):
            return functional.graph(self.config, self.attention)

    @property
    def merged(self) -> "Model":
        """The model with its low-rank adapters added to its weights, and itself where it has none."""
        if not self.config.lora.rank:
            return self
        with jax.set_mesh(self.mesh):
            params = lora.merged(self.params, self.config)
        return dataclasses.replace(self, config=dataclasses.replace(self.config, lora=LoraConfig()), params=params)

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
        arrangement = layouts.arrange(self.attention.layout, batch["segments"], shards, reaches(self.config))
        batch = arrangement.apply(batch)
        with jax.set_mesh(self.mesh):
            logits = _logits(self.graph, self.params, meshes.put_whole(batch, self.mesh), T)
            logits = np.asarray(jax.device_put(logits, NamedSharding(self.mesh, meshes.REPLICATED)))
        return arrangement.undo(logits)[:B, :T]

    def generate(self, ids, max_new_tokens: int, stop: tuple[int, ...] | None = None, **options):
        """The prompts with their continuations.

        Args:
          ids: int [B, T], or a list of rows of any lengths.
          stop: tokens that end a row; default those of config.json and generation_config.json.
          options: chunk, temperature, top_p, key, length, rope: see generation.api.stream. Default: greedy.

        Returns:
          int32 [B, T + max_new_tokens], where a row that ends early repeats the token that ended it; for a list, a list
          of rows, without such repeats.
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
            new = generation.generate(self.graph, self.params, prompts, max_new_tokens, stop=stop, **options)
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
    path,
    rope_scaling: dict | RopeConfig | None = None,
    mesh: jax.sharding.Mesh | None = None,
    dtype: str | None = None,
    position: str | None = None,
    adapter=None,
) -> Model:
    """The model in a Hugging Face folder (config.json and safetensors, in one file or several) or in a .gguf file.

    An id such as "org/name" is that of a model in the hub's cache; nothing is downloaded.

    Each device reads its own shard of each tensor; beside the result, host memory holds the shards of one layer's
    tensor.

    Args:
      rope_scaling: replaces the folder's. A dict, as config.json would hold under rope_scaling or rope_parameters,
        changes the fields that it names (see rope.override). A RopeConfig replaces all but what the weights were made
        with (pairing, rotary_fraction, and original_length where it is 0).
      mesh: default one device.
      dtype: of parameters and computation, one of settings.DTYPES; default the file's, which may differ by tensor.
      position: the position method of layers with RoPE, such as "self_extend(8, 512)": see positions/methods.py.
      adapter: the folder of a low-rank adapter in peft's format, which stays beside the weights (Model.merged).

    Raises:
      UserError: for an architecture, a setting or a tensor that is not known; for tensors that are missing or of
        another shape; for files that are missing, truncated or damaged; for numbers that `dtype` does not hold, and
        parameters that memory does not; for a position method that is not known, or that learns weights; for an
        adapter of another model.
    """
    if dtype is not None and dtype not in DTYPES:
        raise unknown_name("dtype", dtype, DTYPES)
    source = sources.folder(path)
    config = folder.model_config(source, rope_scaling)
    if dtype:
        config = dataclasses.replace(config, dtype=dtype, param_dtype=dtype)
    if position is not None:
        config = _positioned(config, position)
    settings, mesh = folder.settings(source), mesh or meshes.make(MeshConfig())
    architecture, plain = folder.architecture_of(settings), config
    if adapter is not None:
        found, stored = adapters.read(pathlib.Path(adapter), architecture, config)
        adapters.check_base(stored, sources.tensors(source), architecture)
        config = dataclasses.replace(config, lora=found)
        parts = adapters.load(stored, architecture, config, mesh)
    params = _loaded(source, architecture, plain, mesh, dtype and jnp.dtype(dtype))
    if adapter is not None:
        params = paths.joined(lora.based(params, parts), parts)
    return Model(config, params, mesh, source, settings, ends=special_tokens.ends(source))


def _positioned(config: ModelConfig, position: str) -> ModelConfig:
    """The config with another position method in the layers that have none of their own."""
    if methods.parse(position, "position").learned:
        raise UserError(
            f"position={position!r} learns weights, which no folder of Hugging Face holds; train a run with it."
        )
    if all(kind.position for kind in config.pattern):
        raise UserError(f"position={position!r} has no effect: every layer of the model has its own.")
    changed = dataclasses.replace(config, position=position)
    for kind in changed.kinds:
        resolve(kind)
    return changed


def _loaded(source: pathlib.Path, architecture: Architecture, config: ModelConfig, mesh, dtype) -> dict:
    """The parameters in the folder `source`, on `mesh`; dtype: None is the file's. Raises UserError as `load` does."""
    stored, architecture = sources.tensors(source), sources.placed(source, architecture)
    with jax.set_mesh(mesh):
        shapes = jax.eval_shape(lambda: functional.init(config, AttentionConfig(), jax.random.key(0)))
        located = parameters.locate(architecture, config, shapes)
        head = architecture.outside["head"].name if config.tied_head else None
        parameters.check(located, stored, head, str(source))
        if head in stored:
            _require_tied(stored[head], stored[architecture.outside["embedding.table"].name], head)
        parameters.require_room(located, shapes, stored, dtype, str(source))
        place = lambda leaf, parameter: parameters.load(
            parameter, stored, NamedSharding(mesh, leaf.sharding.spec), dtype, jnp.dtype(config.dtype)
        )
        return jax.tree.map(place, shapes, located)


def _require_tied(head: files.Stored, table: files.Stored, name: str) -> None:
    """UserError unless the head's tensor `name` equals the embedding's."""
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
    """Writes a folder that transformers' from_pretrained loads. Tensors are written bit by bit as they are, but for
    those with low-rank adapters, which are merged.

    Args:
      model: a Model, or a training state {"params": ...}, which needs `config` too.
      source: the Hugging Face folder that a state came from, whose config.json and tokenizer are copied; a Model has
        its own. Without one, config.json is written from `config`, if some architecture can express it.
      max_shard_size: the most bytes per file, except for a single tensor that is larger.
      longest: the longest row of training, in tokens. max_position_embeddings becomes the largest of it, the source's
        and the length that RoPE was stretched to, but see rope.reach; the tokenizer's model_max_length follows.
      data: of a run, whose tokenizer is written with its bos, eos and pad; default the source's.

    Raises:
      UserError: where no architecture has a setting of the model, or the directory holds weights already.
    """
    directory = pathlib.Path(directory)
    if not isinstance(model, Model):
        model = _of_state(model, config, pathlib.Path(source) if source else None)
    _require_empty(directory)
    model, content = _described(model.merged, longest)
    content = content | (text.ids(data) if data else {})
    located = parameters.locate(ARCHITECTURES[content["model_type"]], model.config, model.params)
    active = jax.process_index() == 0
    if active:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / folder.CONFIG).write_text(json.dumps(content, indent=2) + "\n")
        _write_tokenizer(model, directory, data, content["max_position_embeddings"])
        text.generation(content, directory)
    with jax.set_mesh(model.mesh):
        tensors = parameters.Tensors(located, model.params)
        files.write(directory, tensors.planned, tensors, max_shard_size, active)


def save_adapter(
    model: Model | dict, directory, config: ModelConfig | None = None, source=None, base: str = ""
) -> None:
    """Writes the low-rank adapters of a model as a folder that peft's PeftModel.from_pretrained loads.

    model, config, source: see `save`. base: the model that they belong to, as peft should name it; default its source.

    Raises:
      UserError: for a model without adapters, or whose weights with adapters are not whole tensors in files of its
        architecture; where the directory holds weights already.
    """
    directory = pathlib.Path(directory)
    if not isinstance(model, Model):
        model = _of_state(model, config, pathlib.Path(source) if source else None)
    if not model.config.lora.rank:
        raise UserError("the model has no adapters: model.lora.rank=0.")
    _require_empty(directory)
    architecture = ARCHITECTURES[(model.settings or {"model_type": express(model.config)[0]})["model_type"]]
    with jax.set_mesh(model.mesh):
        own, active = adapters.part(model.params), jax.process_index() == 0
        adapters.write(directory, architecture, model.config, own, base or str(model.source or ""), active)


def _require_empty(directory: pathlib.Path) -> None:
    """UserError for a directory that holds weights."""
    if weights := sorted(directory.glob("*.safetensors*")):
        raise UserError(f"{directory} holds {weights[0].name} already; name a folder without weights.")


def _of_state(state: dict, config: ModelConfig | None, source: pathlib.Path | None) -> Model:
    """The Model of a training state."""
    if config is None:
        raise UserError("config is needed to save a training state: the ModelConfig that it was trained with.")
    mesh = jax.tree.leaves(state["params"])[0].sharding.mesh
    return Model(config, state["params"], mesh, source, folder.settings(source) if source else None)


def _described(model: Model, longest: int) -> tuple[Model, dict]:
    """(model, config.json): a model with equal logits that config.json describes exactly, and the file's content."""
    config, content = model.config, model.settings
    if content is None:
        model_type, content, expressed = express(config, max(longest, rope.stretched(config.rope)))
        return _rescaled(model, expressed), content | {"torch_dtype": config.param_dtype}
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
    """The content of a config.json with its RoPE replaced by config's, in the form that every transformers reads."""
    architecture = folder.architecture_of(content)
    longest = max(longest, folder.longest(content), rope.stretched(config.rope))
    written = architecture.write(explicit(config), longest)
    new = {name: written[name] for name in folder.ROPE if name in written}
    return {name: value for name, value in content.items() if name not in folder.ROPE} | new


def _write_tokenizer(model: Model, directory: pathlib.Path, data: DataConfig | None, longest: int) -> None:
    if data:
        text.write(data, directory, longest)
    elif model.source:
        text.copy(model.source, directory)
        if longest != folder.longest(model.settings):
            text.limit(directory, longest)


def _rescaled(model: Model, config: ModelConfig) -> Model:
    """A model with the settings `config` and equal logits, its embeddings multiplied by the ratio of embedding scales.

    Where the head is tied to the embedding, the last norm is divided by that ratio.
    """
    scale = explicit(model.config).embedding_scale / config.embedding_scale
    if scale == 1:
        return dataclasses.replace(model, config=config)
    params = dict(model.params)
    times = lambda x, factor: (x.astype(jnp.float32) * factor).astype(x.dtype)
    with jax.set_mesh(model.mesh):
        params["embedding"] = {"table": times(params["embedding"]["table"], scale)}
        if config.tied_head:
            params["norm"] = jax.tree.map(lambda x: times(x, 1 / scale), params["norm"])
    return dataclasses.replace(model, config=config, params=params)
