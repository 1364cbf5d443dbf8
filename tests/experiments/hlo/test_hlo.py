"""Counts read from compiled programs against closed forms, and texts of compilers that this machine may lack.

tpu.txt and gpu.txt hold, in small, the forms that the TPU and GPU compilers write.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from experiments.hlo import collectives, matmuls, text
from experiments.hlo.loops import Certainty, Count
from experiments.hlo.program import chains, overlap, phase, read, total
from longctx import meshes, optim, training
from longctx.config import Config, MeshConfig, ModelConfig, StageConfig
from longctx.data import curriculum
from pallas_kernels import masks
from tests.longctx.context_parallel.cut import attend

C, L = 4, 3


@pytest.fixture(scope="module")
def mesh():
    return meshes.make(MeshConfig(fsdp=2, context=C))


def array(mesh, dims, spec=()):
    return jax.ShapeDtypeStruct(dims, jnp.float32, sharding=NamedSharding(mesh, P(*spec)))


@pytest.fixture
def compiled(mesh):
    """f(*shapes) as a Program; a shape may be (dimensions, spec)."""

    def program(f, *shapes):
        with jax.set_mesh(mesh):
            return read(jax.jit(f).lower(*(array(mesh, *shape) for shape in shapes)).compile().as_text(), mesh)

    return program


def sent(program, kind, dtype="f32"):
    """Elements that leave each device by one kind of collective."""
    return total((c for c in program.collectives if c.kind == kind and c.operands[0].dtype == dtype), "elements")


@pytest.mark.parametrize(
    "strategy, kind", [("ring", "collective-permute"), ("ulysses", "all-to-all"), ("all_gather", "all-gather")]
)
def test_strategies(compiled, strategy, kind):
    """The keys and values of the other shards; of Ulysses also queries and results."""
    n, N, K, H = 32, 8, 4, 16
    f = lambda q, k, v: attend(q, k, v, mask=masks.Causal(), strategy=strategy)
    program = compiled(f, *(((2, C * n, heads, H), meshes.HEADS) for heads in (N, K, K)))
    keys, queries = 2 * n * K * H, 2 * n * N * H
    assert sent(program, kind) == ((C - 1) / C * (keys + queries) if strategy == "ulysses" else (C - 1) * keys)
    assert {(c.axes, c.group, c.runs.certainty) for c in program.collectives} == {(("context",), C, Certainty.EXACT)}


def test_fsdp_over_layers(compiled):
    """Each layer gathers its weight and sums the weight's gradient; 2 flops a weight and row, twice that backward."""
    B, D, F = 16, 32, 64

    def loss(weights, x):
        def layer(x, w):
            w = jax.sharding.reshard(w, P(None, None))
            return jnp.tanh(x @ w) @ w.T, None

        return jax.lax.scan(layer, x, weights)[0].sum()

    program = compiled(jax.grad(loss, (0, 1)), ((L, D, F), (None, "fsdp", None)), ((B, D), (("data", "fsdp"), None)))
    assert sent(program, "all-gather") == L * D * F // 2
    assert total(program.matmuls, "flops") == 3 * 2 * L * (2 * D * F) * B // 2
    assert {m.dtype for m in program.matmuls} == {"f32"}
    (gather,) = (c for c in program.collectives if c.kind == "all-gather")
    assert gather.axes == ("fsdp",) and gather.runs == Count(L) and phase(gather) == "forward"
    grads = [m for m in program.matmuls if phase(m) == "backward"]
    assert total(grads, "flops") * 3 == total(program.matmuls, "flops") * 2
    assert not program.kernels and not program.host_copies


@pytest.mark.slow
def test_a_training_step(mesh):
    """6 flops a weight and token; attention, in loops of unknown length, at most all pairs in each of its two loops."""
    B, T, V, D, N, K, H, F = 2, 4096, 64, 32, 4, 2, 16, 48
    model = ModelConfig(
        vocab_size=V, layers=L, d_model=D, mlp_dim=F, heads=N, kv_heads=K, head_dim=H, dtype="float32", remat="none"
    )
    config = Config(batch_tokens=B * T, stages=(StageConfig(seq_len=T, steps=1),), model=model)
    stages = curriculum.plan(config)
    program = read(training.compile_step(config, optim.constant(config.optim, 1), stages[0], mesh).as_text(), mesh)
    weights = L * (2 * D * N * H + 2 * D * K * H + 3 * D * F) + D * V
    known = [m for m in program.matmuls if m.runs.certainty == Certainty.EXACT]
    attention = [m for m in program.matmuls if m.runs.certainty == Certainty.AT_MOST]
    assert total(known, "flops") == 6 * weights * B * T / mesh.size
    assert len(known) + len(attention) == len(program.matmuls)
    products = (2 + 5) * L  # of queries and keys, forward and backward
    assert total(attention, "flops") == 2 * products * 2 * B * T * T * N * H / mesh.size


def test_nested_loops(compiled):
    def f(x):
        hop = lambda i, x: jax.lax.ppermute(x, "context", [(i, (i + 1) % C) for i in range(C)]) + 1
        hops = lambda i, x: jax.lax.fori_loop(0, 5, hop, x)
        local = lambda x: jax.lax.fori_loop(0, 3, hops, x)
        return jax.shard_map(local, in_specs=P("context"), out_specs=P("context"))(x)

    program = compiled(f, ((8, 2), ("context",)))
    assert [(c.kind, c.runs, c.elements) for c in program.collectives] == [("collective-permute", Count(15), 4)]


def test_what_has_to_wait(mesh):
    """Two permutations side by side are one step, each of those of a loop is one more; links are those of the ring."""
    far, near = ([(i, (i + d) % C) for i in range(C)] for d in (2, 3))  # 3 on is 1 back
    send = lambda x, pairs: jax.lax.ppermute(x, "context", pairs)

    def local(x, y):
        x, y = send(x, far), send(y, near)
        x = jax.lax.fori_loop(0, 5, lambda i, x: send(x, near) + 1, x + y)
        return jax.lax.all_gather(x, "context"), y

    f = jax.shard_map(local, in_specs=P("context"), out_specs=(P(None, "context"), P("context")))
    with jax.set_mesh(mesh):
        shape = array(mesh, (8, 2), ("context",))
        text = jax.jit(f).lower(shape, shape).compile().as_text()
    assert chains(text, mesh, lambda one: one.kind) == {"collective-permute": (6, 7), "all-gather": (1, C - 1)}
    assert chains(text, mesh, lambda one: "all" if one.axes else None) == {"all": (6 + 1, 7 + C - 1)}


def test_loops_of_unknown_length(compiled):
    """A loop runs at most as often as there are parts that its counter picks; without parts the count is unknown."""
    parts = lambda xs, n: jax.lax.fori_loop(0, n[0].astype(int), lambda i, s: s @ xs[i], jnp.zeros((8, 8)))
    assert [m.runs for m in compiled(parts, ((7, 8, 8),), ((1,),)).matmuls] == [Count(7, Certainty.AT_MOST)]
    search = lambda x: jax.lax.while_loop(lambda x: x.sum() < 9.0, lambda x: x @ x, x)
    assert [m.runs for m in compiled(search, ((8, 8),)).matmuls] == [Count(1, Certainty.UNKNOWN)]


def test_the_dearest_branch(compiled):
    """The most of each kind that a device may do, whichever branch it takes."""
    many = lambda x: jax.lax.psum(jax.lax.psum(x, "context"), "fsdp")
    few = lambda x: jax.lax.psum(x, "context") @ x @ x
    f = lambda x: jax.lax.cond(x.sum() > 0, many, few, x)
    program = compiled(jax.shard_map(f, in_specs=P(), out_specs=P(), check_vma=False), ((4, 4),))
    assert [c.axes for c in program.collectives] == [("context",), ("fsdp",)]
    assert {x.runs for x in program.collectives + program.matmuls} == {Count(1, Certainty.AT_MOST)}
    assert total(program.matmuls, "flops") == 2 * 2 * 4**3


def test_devices_in_any_order(mesh):
    devices = np.random.default_rng(0).permutation(mesh.devices.flat).reshape(2, 2, 2)
    shuffled = jax.sharding.Mesh(devices, ("x", "y", "z"))
    f = jax.shard_map(
        lambda x: jax.lax.psum(jax.lax.psum(x, "y"), ("x", "z")),
        mesh=shuffled,
        in_specs=P(("x", "z"), "y"),
        out_specs=P(),
    )
    program = read(jax.jit(f).lower(array(shuffled, (8, 8), (("x", "z"), "y"))).compile().as_text(), shuffled)
    assert {c.axes for c in program.collectives} == {("y",), ("x", "z")}


@pytest.mark.parametrize(
    "groups, axes, group",
    [
        ("replica_groups={{0,1},{2,3},{4,5},{6,7}}", ("z",), 2),
        ("replica_groups={}", ("x", "y", "z"), 8),
        ("replica_groups=[1,8]<=[8]", ("x", "y", "z"), 8),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", ("x",), 2),
        ("replica_groups=[4,2]<=[2,2,2]T(0,2,1), dimensions={0}", ("y",), 2),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}, dimensions={0}", ("y", "z"), 4),
        ("replica_groups=mesh['axis_0'=8] {'axis_0':(2)2}, dimensions={0}", ("y",), 2),
        ("replica_groups=mesh['a'=2,'b'=2,'c'=2] {'c','a'}", ("x", "z"), 4),
        ("replica_groups=mesh['axis_0'=4,'axis_1'=2], device_ids=([4,2]T(1,0)) {'axis_1'}", ("y",), 2),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4], device_ids=(0,2,4,6,1,3,5,7) {'axis_0'}", ("z",), 2),
    ],
)
def test_forms_of_groups(groups, axes, group):
    instruction = text.Instruction("all-gather", "f32[8]{0}", "all-gather", f"%x), channel_id=1, {groups}")
    assert collectives.span(instruction, {"x": 2, "y": 2, "z": 2}) == (axes, group)


@pytest.mark.parametrize(
    "pairs, axes, group",
    [("{0,1},{1,2},{2,3},{3,0}", ("y", "z"), 4), ("{0,4},{4,0}", ("x",), 2), ("{0,0},{1,1}", (), 1)],
)
def test_forms_of_permutations(pairs, axes, group):
    rest = f"%x), source_target_pairs={{{pairs}}}"
    instruction = text.Instruction("hop", "f32[8]{0}", "collective-permute-start", rest)
    assert collectives.span(instruction, {"x": 2, "y": 2, "z": 2}) == (axes, group)


@pytest.mark.parametrize(
    "left, right, out, how, products",
    [
        ("5,32,6", "32,6,7", "5,1,7", "window={size=32}, dim_labels=b0f_0io->b0f", 5 * 7 * 6 * 32),  # two contracted
        ("5,6,1", "6,8,7", "5,8,7", "window={size=8 pad=7_7 rhs_reversal=1}, dim_labels=bf0_i0o->b0f", 5 * 6 * 8 * 7),
        ("8,5,6", "8,6,7", "8,5,7", "window={size=8 stride=7 lhs_dilate=8}, dim_labels=0bf_0io->0bf", 8 * 5 * 6 * 7),
        ("5,6", "6,7", "5,7", "dim_labels=bf_io->bf", 5 * 6 * 7),
    ],
)
def test_a_convolution_that_is_a_dot(left, right, out, how, products):
    """A convolution counts the products of the dot, and none with padding or with a dilation's zeros."""
    module = text.parse(
        "ENTRY %f (a: f32[], b: f32[]) -> f32[] {\n"
        f"  %a = f32[{left}]{{0}} parameter(0)\n  %b = f32[{right}]{{0}} parameter(1)\n"
        f"  ROOT %c = f32[{out}]{{0}} convolution(%a, %b), {how}\n}}\n"
    )
    assert matmuls.flops(module.entry, module.entry.root) == 2 * products


def test_what_a_tpu_program_says(mesh):
    """A loop from 1 to 6; an all-gather split over three fusions, the middle one computing; copies to host memory."""
    program = read((pathlib.Path(__file__).parent / "tpu.txt").read_text(), mesh)
    gather, scatter = program.collectives
    assert (gather.kind, gather.axes, gather.runs) == ("all-gather", ("fsdp", "context"), Count(5))
    assert gather.bytes == 7 * 8 * 32 * 2
    assert (scatter.kind, scatter.runs, scatter.bytes) == ("reduce-scatter", Count(1), 7 / 8 * 64 * 32 * 2)
    assert gather.overlapped and not scatter.overlapped
    assert overlap(program.collectives) == 5 * gather.bytes / (5 * gather.bytes + scatter.bytes)
    (matmul,) = program.matmuls
    assert (matmul.dtype, matmul.flops, matmul.runs) == ("bf16", 2 * 16 * 64 * 4 * 32, Count(5))
    assert total(program.estimates, "cycles") == 5 * 2123
    (kernel,) = program.kernels
    assert (kernel.name, kernel.target, kernel.runs) == ("attention_forward", "tpu_custom_call", Count(5))
    assert [shape.dims for shape in kernel.operands + kernel.results] == [(8, 32), (64, 32), (8, 32)]
    assert [(c.to_host, c.bytes, c.runs, c.overlapped) for c in program.host_copies] == [
        (True, 16 * 64 * 2, Count(5), True),
        (False, 16 * 64 * 2, Count(1), False),
    ]


def test_what_a_gpu_program_says(mesh):
    program = read((pathlib.Path(__file__).parent / "gpu.txt").read_text(), mesh)
    gather, hop = program.collectives
    assert (gather.axes, gather.group, gather.elements) == (("fsdp", "context"), 8, 7 * (8 * 32 + 8 * 16))
    assert (hop.axes, hop.group, hop.bytes) == (("context",), 4, 16 * 64 * 2)
    assert (phase(gather), phase(hop)) == ("forward", "recomputed")
    assert hop.overlapped and not gather.overlapped  # the gather is marked as synchronous
    assert [(m.dtype, m.flops, phase(m)) for m in program.matmuls] == [
        ("bf16", 2 * 16 * 64 * 32, "forward"),
        ("bf16", 2 * 16 * 64 * 32, "backward"),
    ]
    assert [(c.to_host, c.bytes, c.overlapped) for c in program.host_copies] == [(False, 16 * 64 * 2, False)]


def test_texts_that_do_not_fit(mesh):
    with pytest.raises(ValueError, match="no ENTRY computation"):
        read("module @jit_f {}", mesh)
    with pytest.raises(ValueError, match="for 8 devices, and the mesh {'x': 4} has 4"):
        read((pathlib.Path(__file__).parent / "gpu.txt").read_text(), jax.make_mesh((4,), ("x",)))
