"""The streamed training step: the optimiser is applied to a layer as soon as the gradient of that layer is complete.

Clipping must know the norm of the whole gradient: `exact` waits for it with all gradients in a buffer (in host memory
if memory.offload names "grads"), `exact_twice` has no buffer and goes back twice, the first time only to know the norm.
`delayed` takes the norm of the last good step, and does not clip the very first step. (Adam's first update does not
depend on the scale of its gradient.)

A layer whose gradient is not finite (under `delayed`, and without clipping) stays as it is, and so does all that is
updated after it; but the layers before may have been updated by then. New weights that are not finite: see
optim.updated; what is updated after them stays too.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from longctx import optim, trained
from longctx.config import Config, RopeConfig
from longctx.memory import host
from longctx.model import functional, paths
from longctx.streaming.walk import Walk, walk


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """AdamW for the parts of the parameters.

    rate: the learning rate of this step. decays: a tree of bools for all parameters, see optim.optimizer.
    """

    config: Config
    rate: jax.Array
    decays: dict

    def factor(self, norm):
        """The factor that clips gradients of that norm."""
        return optim.clip_factor(norm, self.config.optim.clip_norm) if self.config.optim.clip_norm else jnp.float32(1)

    def updated(self, params, moments, grads, factor, good, decays):
        """(params, moments, good) of optim.updated with clipped gradients; grads float32, factor from `factor`."""
        grads = jax.tree.map(lambda g, p: (g * factor).astype(p.dtype), grads, params)
        return optim.updated(self.config.optim, self.rate, grads, moments, params, good, decays)

    def layer(self, blocks, done, kind, i, grads, factor):
        """(blocks, done) after the step of layer i of a kind; blocks: stacks of all layers. grads: of what is trained.

        done: (stacks of their moments, good). Counts of the moments stay.
        """
        if not grads:
            return blocks, done
        part, (moments, good) = lambda tree: host.read(tree[kind], i), done
        weights = trained.part_of_layer(self.config, blocks[kind], kind)
        params, before = host.read(weights, i), optim.moments_of(moments, part)
        params, (adam, *_), good = self.updated(params, before, grads, factor, good, self.decays["blocks"][kind])
        write = lambda tree, parts: tree | {kind: host.write(tree[kind], i, parts)}
        stacks, *rest = moments
        stacks = stacks._replace(mu=write(stacks.mu, adam.mu), nu=write(stacks.nu, adam.nu))
        whole = paths.joined(blocks[kind], host.write(weights, i, params))
        return blocks | {kind: whole}, ((stacks, *rest), good)

    def layers(self, blocks, done, grads, factor):
        """(blocks, done) after the step of all layers; grads: stacks of the layers' gradients."""
        for kind in grads:
            update = lambda i, carry, kind=kind: self.layer(*carry, kind, i, host.read(grads[kind], i), factor)
            blocks, done = jax.lax.fori_loop(0, host.count(blocks[kind]), update, (blocks, done))
        return blocks, done


def exact(way: Walk, optimizer: Optimizer, blocks, moments, stream, last_norm):
    """(blocks, (moments, good), the other parameters' gradients, losses, gradient norm, clip factor), as all CLIPS.

    blocks, moments: stacks of the layers' weights and moments, updated in the result; good: whether each of them was.
    last_norm: of the last good step.
    """
    losses, dy, sums = way.loss(stream)
    on_host = "grads" in way.config.memory.offload
    buffer = host.zeros_like(trained.part(way.config, {"blocks": blocks}).get("blocks", {}), on_host)

    def take(blocks, done, kind, i, grads):
        buffer, squares = done
        if not grads:
            return blocks, done
        return blocks, (buffer | {kind: host.write(buffer[kind], i, grads)}, squares + squared(grads))

    blocks, (buffer, squares), grads = way.backward(blocks, stream, dy, sums, (buffer, jnp.float32(0)), take)
    norm = jnp.sqrt(squares + squared(grads))
    factor, good = optimizer.factor(norm), jnp.isfinite(losses["loss"]) & jnp.isfinite(norm)
    return *optimizer.layers(blocks, (moments, good), buffer, factor), grads, losses, norm, factor


def exact_twice(way, optimizer, blocks, moments, stream, last_norm):
    """The result of `exact` without a buffer of gradients: one more way back, before, for their norm."""
    losses, dy, sums = way.loss(stream)
    measure = lambda blocks, squares, kind, i, grads: (blocks, squares + squared(grads))
    blocks, squares, grads = way.backward(blocks, stream, dy, sums, jnp.float32(0), measure)
    norm = jnp.sqrt(squares + squared(grads))
    factor, good = optimizer.factor(norm), jnp.isfinite(losses["loss"]) & jnp.isfinite(norm)
    update = lambda blocks, done, kind, i, grads: optimizer.layer(blocks, done, kind, i, grads, factor)
    _, dy, sums = way.loss(stream)  # the gradient of the stream has been spent
    blocks, done, _ = way.backward(blocks, stream, dy, sums, (moments, good), update)
    return blocks, done, grads, losses, norm, factor


def delayed(way, optimizer, blocks, moments, stream, last_norm):
    """The result of `exact` but for the factor: each layer is updated at once, clipped by the last good step's norm."""
    losses, dy, sums = way.loss(stream)
    factor = jnp.where(last_norm > 0, optimizer.factor(last_norm), 1.0)

    def take(blocks, done, kind, i, grads):
        (moments, good), squares = done
        square = squared(grads)
        blocks, done = optimizer.layer(blocks, (moments, good & jnp.isfinite(square)), kind, i, grads, factor)
        return blocks, (done, squares + square)

    start = (moments, jnp.isfinite(losses["loss"])), jnp.float32(0)
    blocks, (done, squares), grads = way.backward(blocks, stream, dy, sums, start, take)
    return blocks, done, grads, losses, jnp.sqrt(squares + squared(grads)), factor


CLIPS = {"exact": exact, "exact_twice": exact_twice, "delayed": delayed}


def streamed(graph, config: Config, rate, rope: RopeConfig, state: dict, batch: dict, length: int | None):
    """(params, moments, losses, gradient norm, good) after one step, as training.autodiff gives them.

    The parameters and moments of state["params"]["blocks"] are updated in place.
    """
    way = walk(graph, config, rope, state["params"], batch, length)
    clip = CLIPS[config.memory.clip_mode] if config.optim.clip_norm else delayed  # which waits for nothing
    optimizer = Optimizer(config, rate, trained.part(config, functional.decays(graph, state["params"])))
    return updated(
        optimizer,
        state,
        lambda optimizer, blocks, moments: clip(
            way, optimizer, blocks, moments, way.forward(blocks), state["grad_norm"]
        ),
    )


def updated(optimizer: Optimizer, state: dict, step):
    """(params, moments, losses, gradient norm, good) after step(optimizer, blocks, moments), one of CLIPS."""
    params, offload = state["params"], optimizer.config.memory.offload
    blocks = host.stacks(params["blocks"], "params" in offload)
    in_blocks = lambda tree: host.stacks(tree.get("blocks", {}), "moments" in offload)
    stacked = optim.moments_of(state["moments"], in_blocks)
    blocks, (stacked, good), grads, losses, norm, factor = step(optimizer, blocks, stacked)
    good = good & jnp.isfinite(losses["loss"]) & jnp.isfinite(norm)
    part, moments = others(trained.part(optimizer.config, params)), optim.moments_of(state["moments"], others)
    part, (adam, *rest), good = optimizer.updated(part, moments, grads, factor, good, others(optimizer.decays))
    whole = lambda outside, blocks: outside | ({"blocks": host.arrays(blocks)} if blocks else {})
    moments = adam._replace(mu=whole(adam.mu, stacked[0].mu), nu=whole(adam.nu, stacked[0].nu)), *rest
    return whole(paths.joined(others(params), part), blocks), moments, losses, norm, good


def others(tree: dict) -> dict:
    """The entries of a tree of all parameters, or of their moments or gradients, that are not in blocks."""
    return {name: leaf for name, leaf in tree.items() if name != "blocks"}


def squared(grads):
    """The square of the global norm."""
    return optax.tree.norm(grads, squared=True)
