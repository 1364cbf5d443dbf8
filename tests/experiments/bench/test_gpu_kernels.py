"""The GPU side of bench_kernels: its tables on results written by hand, and one real compilation."""

import json

import pytest

from experiments.bench import kernels as bench_kernels
from experiments.bench.harness import gpu_kernels, options
from experiments.bench.harness.gpu_kernels import NOT_RUN, Result
from experiments.bench.harness.kernel_cases import Case
from experiments.hardware.gpu_schedule import Kernel, Loop
from tests.helpers import NEEDS_CUDA_COMPILER

FREE = Loop(470, 900, {"tensor": 16, "mufu": 66}, {"HGMMA.64x128x16.F32": 16}, 1024.0)
MASKED = Loop(640, 1300, {"tensor": 16, "mufu": 66}, {"HGMMA.64x128x16.F32": 16}, 1024.0)
KERNEL = Kernel(
    "attend",
    "sm_90a",
    registers=168,
    shared=160_000,
    threads=384,
    wgmma=32,
    setmaxnreg=("inc 232",),
    blocks=1,
    limiter="registers",
    loops=[FREE, MASKED, Loop(90, 200, {}, {}, 0.0)],
)


def results(spills=0, **measured):
    cases = {name: Case(name, "forward") for name in ("mosaic_gpu", "cudnn", "jax_pallas_triton")}
    kernels = {"mosaic_gpu": (Kernel(**{**vars(KERNEL), "spills": spills}),)}
    return [
        Result("h200", case, kernels.get(name, ()), measured=measured.get(name, {})) for name, case in cases.items()
    ]


def test_a_row_for_each_loop_with_matmuls():
    free, masked, cudnn, peer = gpu_kernels.rows(results())
    assert free[:6] == ["h200", "forward", "causal", 128, "mosaic_gpu", "attend"] and free[-4:] == [
        470,
        "470",
        900,
        "66",
    ]
    assert masked[-4:-2] == [640, "640"]
    assert cudnn[4:6] == ["cudnn", "none that is compiled here"] and set(cudnn[6:]) == {"-"} == set(peer[6:])
    assert {len(row) for row in (free, masked, cudnn, peer)} == {len(gpu_kernels.HEADER)}


def test_machine_code_is_held_to_targets():
    def said(**how):
        targets = gpu_kernels.check(results(**how), [8192])
        return {t["what"].split(": ")[1]: (t["value"], t["result"]) for t in targets}

    assert said()["instructions for a free block of 64 x 128"] == (470, "ok")
    assert said()["mma.sync instead of wgmma"] == (0, "ok") and said()["shared memory"] == (160_000, "ok")
    assert said(spills=8)["bytes spilled"] == (8, "missed")


def test_times_stand_beside_cudnns_of_the_same_run():
    measured = results(mosaic_gpu={8192: 600.0}, cudnn={8192: 500.0}, jax_pallas_triton={8192: 300.0})
    assert [row[-2:] for row in gpu_kernels.times(measured)] == [["600", "1.2"], ["500", "1"], ["300", "0.6"]]
    fastest = [t for t in gpu_kernels.check(measured, [8192, 16384]) if "over cuDNN" in t["what"]]
    assert [(t["value"], t["result"]) for t in fastest] == [(1.2, "ok"), *[(None, NOT_RUN)] * 3]


def test_few_queries_are_held_to_the_memory():
    """8 key heads with blocks of 64 keys, 2048 of each, whose loop has 240 instructions and one warp a scheduler."""
    case = Case("triton_decode", "forward", heads=32, kv_heads=8, queries=1)
    kernel = Kernel("split_forward", "sm_90a", mma_sync=32, loops=[Loop(240, 700, {}, {"HMMA.16816": 32}, 0.0)])
    least = gpu_kernels.floors("h200", case, 131072, (kernel,))
    assert least["memory"] == pytest.approx(2 * 2 * 131072 * 8 * 128 / 4.8e12 * 1e6)
    assert least["issue"] == pytest.approx(8 * 2048 * 240 / 132 / 1.98e9 * 1e6)
    result = Result("h200", case, (kernel,), floors={131072: least})
    assert list(gpu_kernels.floor_rows([result])) == [["h200", "triton_decode", 1, 131072, "112", "15"]]
    what = [(t["what"].split(": ")[1], t["result"]) for t in gpu_kernels.check([result], [131072])]
    assert what == [("bytes spilled", "ok"), ("shared memory", "ok"), ("131072 tokens, issue / memory", "ok")]


def test_few_queries_are_of_gpus(capsys):
    assert options.command(bench_kernels.main, ["--chip=v6e", "--queries=1"]) == 2
    assert "--queries=1 with --chip=v6e must be above 0, and of GPUs alone: a100" in capsys.readouterr().err


@pytest.mark.slow
@NEEDS_CUDA_COMPILER
def test_the_lint_table_of_a_public_kernel(tmp_path, capsys):
    arguments = [
        "--chip=h200",
        "--op=forward",
        "--mask=full",
        "--kernel=jax_mosaic_demo,tokamax",
        "--lengths=2048",
        f"--out={tmp_path / 'x.json'}",
    ]
    assert options.command(bench_kernels.main, arguments) == 0
    assert NOT_RUN in capsys.readouterr().out
    (result,) = json.loads((tmp_path / "x.json").read_text())["results"]
    (kernel,) = result["kernels"]
    assert kernel["wgmma"] > 0 == kernel["mma_sync"] == kernel["spills"] and not result["note"]
