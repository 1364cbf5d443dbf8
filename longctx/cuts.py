"""Checks that the sizes of a model divide one another, and divide by the axes of a mesh. Free of jax."""

from collections.abc import Mapping

from longctx.config import DTYPES, Config, ModelConfig
from longctx.errors import UserError, unknown_name


def check(model: ModelConfig, axes: Mapping[str, int]) -> None:
    """Raises UserError for the first size that does not divide, naming sizes that would.

    axes: the length of each mesh axis. Sizes that only some feed-forward layers read are checked by their class, see
    longctx/model/names.py.
    """
    sizes = {
        f"model.{field}": getattr(model, field)
        for field in ("layers", "heads", "kv_heads", "head_dim", "vocab_size", "d_model")
    }
    for field, size in sizes.items():
        if size < 1:
            raise UserError(f"{field}={size} must be at least 1.")
    if model.heads % model.kv_heads:
        raise UserError(
            f"model.kv_heads={model.kv_heads} must divide model.heads={model.heads}; {divisors(model.heads)} would."
        )
    if model.head_dim % 2:
        raise UserError(f"model.head_dim={model.head_dim} must be even; {model.head_dim + 1} works.")
    for field in ("heads", "kv_heads", "vocab_size"):
        check_axis(f"model.{field}", sizes[f"model.{field}"], "tensor", axes["tensor"])
    check_axis("model.d_model", model.d_model, "fsdp", axes["fsdp"])
    for i, kind in enumerate(model.kinds):
        field = f"model.pattern[{i}].mlp_dim" if model.pattern[i].mlp_dim else "model.mlp_dim"
        check_axis(field, kind.mlp_dim, "tensor", axes["tensor"])


def check_config(config: Config) -> None:
    """Raises UserError for the first size of a run's model or mesh that does not divide, and for an unknown dtype."""
    mesh = config.mesh
    check(config.model, mesh.axes)
    check_groups("memory.head_groups", config.memory.head_groups, config.model.kv_heads, mesh.tensor)
    if 0 < mesh.simulate < mesh.devices:
        raise UserError(f"mesh.simulate={mesh.simulate} is too few for the mesh ({mesh}); {mesh.devices} works.")
    dtypes = {
        "model.dtype": config.model.dtype,
        "model.param_dtype": config.model.param_dtype,
        "attention.kv_grads_dtype": config.attention.kv_grads_dtype,
    }
    for field, name in dtypes.items():
        if name not in DTYPES:
            raise unknown_name(field, name, DTYPES)


def check_groups(field: str, groups: int, kv_heads: int, tensor: int) -> None:
    """Raises UserError where the number of groups, in the setting `field`, does not divide the key heads of a shard of
    `tensor`."""
    if kv_heads // tensor % groups:
        raise UserError(
            f"{field}={groups} must divide the {kv_heads // tensor} key heads of a tensor shard; "
            f"{divisors(kv_heads // tensor)} would."
        )


def divisors(size: int) -> str:
    """The divisors of a size as text, those up to 10,000."""
    small = [str(n) for n in range(1, min(size, 10_000) + 1) if size % n == 0]
    return ", ".join(small) + (", ..." if size > 10_000 else "")


def check_axis(field: str, size: int, axis: str, parts: int) -> None:
    """Raises UserError where a size, in the setting `field`, does not divide by the `parts` shards of a mesh axis."""
    if size < 1 or size % parts:
        works = max(-(-size // parts), 1) * parts
        fits = f", or mesh.{axis}={max(n for n in range(1, parts) if size % n == 0)}" if size > 0 and parts > 1 else ""
        raise UserError(f"{field}={size} must be above 0 and divide by mesh.{axis}={parts}; {works} works{fits}.")
