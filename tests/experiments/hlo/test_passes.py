"""The operations of CPU programs against counts by hand, on what the compiler makes here."""

import jax
import jax.numpy as jnp

from experiments.hlo import passes
from experiments.hlo.passes import Pass, Product

LAYERS, T, D, F = 5, 512, 256, 768


def operations(function, *shapes, dtype=jnp.float32):
    args = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
    return passes.read(jax.jit(function).lower(*args).compile().as_text())


def test_a_scan_over_layers():
    """Each layer reads its slice of the stack of weights, and writes one of the stack of results."""

    def layer(x, w):
        x = jnp.tanh(x @ w)
        return x, x + 1.0

    found = operations(lambda x, ws: jax.lax.scan(layer, x, ws), (T, D), (LAYERS, D, D))
    (product,) = (item for item in found if isinstance(item, Product))
    assert (product.flops, product.runs.times) == (2 * T * D * D, LAYERS)
    assert (product.form.left, product.form.right) == ((T, D), (D, D)) and product.form.contracted == ((1,), (0,))
    in_loop = [item for item in found if isinstance(item, Pass) and item.runs.times == LAYERS]
    assert sum(item.costly for item in in_loop) == T * D
    moved = sum(item.bytes for item in in_loop) / 4
    # tanh reads and writes x, the slice is copied, the sum reads x and writes its part of the stack; a stack that
    # counted whole would be 2.5 T D more, or 5
    assert 4 * T * D <= moved <= 6 * T * D


def test_transposed_products_are_told_apart():
    """A gradient of weights sums over tokens, the first dimension of both sides."""
    gradient = lambda x, w, dy: jax.vjp(lambda x, w: x @ w, x, w)[1](dy)
    found = operations(gradient, (T, D), (D, F), (T, F))
    products = [item for item in found if isinstance(item, Product)]
    assert len({item.form for item in products}) == len(products) == 2
    assert all(item.flops == 2 * T * D * F for item in products)


def test_a_pass_reads_its_operands_and_writes_its_results():
    (only,) = operations(lambda a, b: jnp.exp(a) + b, (T, D), (T, D))
    assert (only.bytes, only.costly, only.runs.times) == (3 * 4 * T * D, T * D, 1)
    narrow = operations(lambda a, b: a + b, (T, D), (T, D), dtype=jnp.bfloat16)
    assert sum(item.bytes for item in narrow) == 3 * 2 * T * D


def test_an_update_in_place_and_a_row_that_is_looked_up_count_what_they_touch():
    update = jax.jit(lambda stack, x: jax.lax.dynamic_update_slice(stack, x, (3, 0)), donate_argnums=0)
    stack, row = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((LAYERS * T, D), (1, D)))
    moved = sum(item.bytes for item in passes.read(update.lower(stack, row).compile().as_text()))
    assert moved <= 4 * 4 * D
    found = operations(lambda table: table[jnp.array([4, 7, 9])], (T, D))
    assert sum(item.bytes for item in found) <= 3 * 3 * 4 * D
