"""The schedule meter on a dump written by hand, what kernels are said to have to do, and one real compilation."""

import json

import numpy as np
import pytest

from experiments.bench import kernels as bench_kernels
from experiments.bench import tune_kernels
from experiments.bench.harness import options
from experiments.bench.harness.kernel_cases import Case
from experiments.hardware import tpu_schedule
from experiments.hardware.tpu_schedule import Kernel, Region, Work
from pallas_kernels import tpu_chips
from pallas_kernels.tpu_chips import CHIPS
from tests.helpers import NEEDS_TPU_COMPILER

BUNDLES = """= control target key start
LH: loop header
= control target key end

     0   :  { %s1 = inlined_call_operand.hbm [shape: bf16[8]] }
   0x1   :  { %s2 = smov 0 }
   0x2 LH: > { %p1 = scmp }
   0x3   : > { %3 = sbr.rel (%p1) target bundleno = 6 (0x6), region = 1 }
   0x4   : >> { vst.msk }
   0x5   : >> { vst.msk }
   0x6   : > { %4 = sbr.rel (%p2) target bundleno = 10 (0xa), region = 2
target bundleno = 0 is no branch } /* sbr.rel (%p0) target bundleno = 1 */
   0x7   : >> { %v1 = vmatmul.mubr.bf16.gmra.mxu0 %v0  ;;  %v2 = vadd }
   0x8   : >> {}
   0x9   : >> { %v3 = vmatmul.bf16.gmra.mxu1 %v0 /* vmatmul.bf16. */ }
   0xa   : > { %5 = sbr.rel (!%p3) target bundleno = 2 (0x2), region = 3 }
   0xb   :  { halt }
"""


@pytest.fixture
def dump(tmp_path):
    rows = np.zeros((12, 10), int)
    rows[[4, 5], 7] = 2, 40  # VSTORE
    rows[[7, 9], 0] = 1  # MXU
    units = "\n".join(" ".join(map(str, row)) for row in rows)
    memory = "  #allocation0 [space=vmem, size = 0x1000]\n#allocation1 [space=smem, size = 0x8]"
    copies = (
        "%1 = dma.hbm_to_vmem [thread:$0] /*hbm=*/%s1, /*size_in_granules=*/512",
        "%2 = dma.general /*src=*/%s2, /*size_in_granules=*/64",
        "%3 = dma.vmem_to_hbm /*size_in_granules=*/8",
        "%4 = dma.done %1, 512",
    )
    for number, kind, text in (
        (2, "original", "\n".join((memory, *copies))),
        (64, "schedule-analysis_packed-bundles-post-ra", "custom_call_target=tpu_custom_call"),
        (65, "packed-bundles-post-ra", BUNDLES),
        (
            68,
            "pre-delay_hlo-static-per-bundle-utilization",
            f"== CAPACITY:\nnames\n 4 2 4 2 1 3 3 1 1 2\n== UTILIZATION:\n{units}",
        ),
    ):
        (tmp_path / f"7-attention.1-{number:02}-{kind}.txt").write_text(text)
    (tmp_path / "7-TLP-66-packed-bundles-post-ra.txt").write_text(BUNDLES)
    return tmp_path


def test_regions_of_a_dump(dump):
    (kernel,) = tpu_schedule.read(dump)
    assert (kernel.name, kernel.vmem, kernel.copies) == ("attention.1", 4096, (32 * 512, 32 * 64))
    (region,) = kernel.compute
    assert (region.start, region.end, region.cycles, region.matmul_rows) == (7, 10, 3, 32)
    assert (kernel.step, kernel.outer, kernel.once) == (4, 2, 3)  # bundles 2 3 6 10, then 4 5, then 0 1 11
    work = Work("attention", 1e6, (5,), 7, 2)
    assert tpu_schedule.cycles(kernel, work, CHIPS["v5e"]) == 3 + 7 * 4 + 2 * 2 + 5 * 3
    assert tpu_schedule.cycles(kernel, work, CHIPS["v5p"]) == 25  # two cores
    assert tpu_schedule.matmul_cycles(region, CHIPS["v5e"]) == 32 / 4
    assert tpu_schedule.floors(region, kernel, CHIPS["v5e"])["MXU"] == 8


def test_a_dump_whose_tables_do_not_line_up_is_refused(dump):
    use = next(dump.glob("*utilization.txt"))
    use.write_text(use.read_text() + "\n0 0 0 0 0 0 0 0 0 0")
    with pytest.raises(ValueError, match="12 bundles, and the table of their units 13"):
        tpu_schedule.read(dump)


@pytest.mark.parametrize("kernel", ["longctx", "tokamax", "splash", "flash"])
@pytest.mark.parametrize("mask", ["causal", "full"])
def test_what_a_forward_is_said_to_run_covers_its_work(kernel, mask):
    case = Case(kernel, "forward", mask)
    with tpu_chips.target("v6e"):
        q, k, *_ = case.blocks(8192)
        work = case.work(8192)
    computed = sum(work.runs) * q * k / (8 * 8192**2)  # share of the square, LOWER pairs counted whole
    wanted = 1 if mask == "full" else 0.5
    assert wanted <= computed <= wanted * (1 + max(q, k) / 8192)
    assert work.steps >= sum(work.runs) and work.outer == 8 * 8192 // q
    assert work.flops == wanted * 4 * 8 * 8192**2 * 128


def test_documents_leave_most_pairs_out():
    with tpu_chips.target("v5e"):
        runs = [sum(Case("longctx", "backward", "segments", documents=n).work(16384).runs) for n in (1, 4)]
    assert runs[1] * 4 == runs[0]


def test_chips_agree_with_their_published_clocks():
    assert {name: round(chip.clock / 1e9, 2) for name, chip in CHIPS.items()} == {
        "v4": 1.05,
        "v5e": 1.50,
        "v5p": 1.75,
        "v6e": 1.75,
        "tpu7x": 2.2,
    }


@pytest.mark.parametrize(
    "option, words",
    [
        ("--chip=v9", "Known: a100, a800, b200, h100, h200, tpu7x, v4"),
        ("--kernel=fast", "Known: chunked, cudnn, flash"),
        ("--op=sideways", "Known: backward, forward"),
        ("--mask=diagonal", "is not a mask"),
        ("--lengths=0", "whole numbers above 0"),
        ("--lengths=5000", "multiples of 2048"),
        ("--out=/nowhere/at/all", "cannot be written"),
    ],
)
def test_bad_options_are_one_line(option, words, capsys):
    assert options.command(bench_kernels.main, [option]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_tuning_prints_the_best_candidate(monkeypatch, capsys):
    def priced(chip, case, lengths):
        if case.sizes[0] == 2048:
            return [bench_kernels.Result(chip, case, length, note="does not fit") for length in lengths]
        return [bench_kernels.Result(chip, case, length, tflops=case.sizes[2] + length / 1024) for length in lengths]

    monkeypatch.setattr(bench_kernels, "measure", priced)
    monkeypatch.setattr(tune_kernels.extras, "missing", lambda package: "")
    assert options.command(tune_kernels.main, ["--chip=v6e", "--op=forward", "--head-dim=128"]) == 0
    out = capsys.readouterr().out
    assert "2048/2048/256/512/512: does not fit" in out
    assert out.endswith(
        '("forward", "v6e", 128): Blocks(q=1024, k=1024, chunk=512, rows=512, wide=512),    '
        "# 520 at 8192, 544 at 32768\n}\n"
    )


def test_a_picture_of_gpus_alone_is_refused(tmp_path, capsys):
    assert options.command(bench_kernels.main, ["--chip=h200", f"--picture={tmp_path / 'kernels.png'}"]) == 2
    assert "of TPUs alone: v4, v5e" in capsys.readouterr().err


def test_a_missing_peer_is_a_row_with_its_reason(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(bench_kernels, "missing", lambda kernel: f"{kernel} is not installed")
    arguments = [
        "--chip=v6e",
        "--op=forward",
        "--mask=causal",
        "--kernel=tokamax",
        "--lengths=8192",
        f"--out={tmp_path / 'x.json'}",
    ]
    assert options.command(bench_kernels.main, arguments) == 0
    assert "tokamax is not installed" in capsys.readouterr().out
    (result,) = json.loads((tmp_path / "x.json").read_text())["results"]
    assert result["tflops"] is None


@pytest.mark.slow
@NEEDS_TPU_COMPILER
def test_a_kernel_is_compiled_priced_and_drawn(tmp_path):
    case = Case("longctx", "backward", sizes=(512, 512, 256, 512))
    results = short, long = bench_kernels.measure("v5e", case, [4096, 8192])
    assert not short.note and short.tflops < long.tflops < CHIPS["v5e"].tflops
    for region in long.regions:
        assert max(region["floors"].values()) <= region["cycles"] and 0 < region["mxu"] <= 1
    bench_kernels.picture(results).savefig(tmp_path / "kernels.png")
    assert (tmp_path / "kernels.png").stat().st_size > 10_000


def test_kernels_of_several_regions_are_priced_in_order():
    regions = [Region(0, 0, False, cycles=10), Region(0, 0, False, cycles=100)]
    kernel = Kernel("k", regions, step=1, outer=2, once=3, capacity={}, vmem=0)
    assert tpu_schedule.cycles(kernel, Work("k", 0, (2, 1), 3, 1), CHIPS["v6e"]) == 3 + 3 + 2 + 20 + 100
