"""bfloat16 stacks as integers."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from longctx.memory import bits


def test_bits_and_back_are_the_same_numbers():
    tree = {
        "a": jnp.arange(24, dtype=jnp.bfloat16).reshape(2, 3, 4) / 7,
        "b": jnp.ones((2, 2)),
        "c": jnp.array([[jnp.nan], [jnp.inf]], jnp.bfloat16),
    }
    inside = jax.jit(bits.of)(tree)
    for found in (bits.of(tree), inside):
        assert found["a"].array.dtype == found["c"].array.dtype == jnp.uint16
        back = bits.restored(found)
        assert jax.tree.all(jax.tree.map(lambda x, y: x.dtype == y.dtype and np.array_equal(x, y, True), back, tree))
        part = bits.part(found, 1)
        assert jax.tree.all(jax.tree.map(lambda x, y: np.array_equal(x, y[1], True), part, tree))
    assert bits.of(tree)["b"] is tree["b"]


def test_the_bits_of_one_device_are_no_copy():
    x = jax.block_until_ready(jnp.ones((4, 64), jnp.bfloat16))
    assert bits.of(x).array.unsafe_buffer_pointer() == x.unsafe_buffer_pointer()


def test_a_loop_over_bits_converts_no_stack():
    """Which XLA does to a stack of bfloat16: without that, bits are of no use."""

    def loop(x, stack):
        layer = lambda x, w: (x @ bits.restored(w), None)
        return jax.lax.scan(layer, x, stack)[0]

    x, stack = jnp.ones((1, 32), jnp.bfloat16), jnp.ones((5, 32, 32), jnp.bfloat16)
    converted = re.compile(r"f32\[5,32,32\]")
    program = lambda stack: jax.jit(loop).lower(x, stack).compile().as_text()
    assert converted.search(program(stack)) and not converted.search(program(bits.of(stack)))
