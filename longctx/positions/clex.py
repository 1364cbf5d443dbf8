"""CLEX (arXiv 2310.16450): the scaling of RoPE's frequencies as a neural ODE that is trained with the model.

scalings.Clex has its numbers, model/clex.py its weights.

With t = how many times its trained length a row is long, the logarithms z of the frequencies follow

    dz/dt = silu((z + n(t)) up) down + dn/dt,        z(1) = n(1),

where n(t) are those of the NTK-aware frequencies at a factor of 2 t - 1. Only what is learned is integrated here,
y = z - n: it starts at 0, and stays there while `down` is 0, as it is at first.
"""

import jax
import jax.numpy as jnp
import numpy as np

from longctx.positions.scalings import Clex, Rotation

STEPS = 16  # of the Runge-Kutta method for each unit of t


def frequencies(up: jax.Array, down: jax.Array, scaling: Clex, rotation: Rotation) -> jax.Array:
    """exp z(t) in radians per token, [t, pairs], at t = 1, 2, .. up to scaling.factor; in the dtype of `up`."""
    grid = range(1, int(scaling.factor) + 1)
    base = np.stack([scaling.start(rotation, t) for t in grid])
    pairs = base.shape[1]
    n = lambda t: jnp.log(base[0]).astype(up.dtype) - np.arange(pairs) / (pairs - 1) * jnp.log(2 * t - 1)

    def slope(t, y):
        return jax.nn.silu((y + 2 * n(t)) @ up) @ down

    def step(y, t):
        h = 1 / STEPS
        a = slope(t, y)
        b = slope(t + h / 2, y + h / 2 * a)
        c = slope(t + h / 2, y + h / 2 * b)
        return y + h / 6 * (a + 2 * b + 2 * c + slope(t + h, y + h * c)), None

    def unit(y, t):
        y, _ = jax.lax.scan(step, y, t + jnp.arange(STEPS, dtype=up.dtype) / STEPS)
        return y, y

    start = jnp.zeros(pairs, up.dtype)
    learned = jax.lax.scan(unit, start, jnp.asarray(np.array(grid[:-1]), up.dtype))[1]
    return base.astype(up.dtype) * jnp.exp(jnp.concatenate([start[None], learned]))
