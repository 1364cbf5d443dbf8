"""The meter of CUDA compiles, on kernels written by hand and on one program that XLA compiles."""

import pytest

from experiments.hardware import gpu_schedule
from pallas_kernels.gpu_chips import CHIPS
from tests.helpers import NEEDS_CUDA_COMPILER, compiled_for_gpu, slow

pytestmark = NEEDS_CUDA_COMPILER

KERNEL = """
.visible .entry {name}(.param .u64 at, .param .u32 count) .reqntid {threads}
{{
  .reg .f32 %f<5>; .reg .b32 %r<6>; .reg .b64 %rd<2>; .reg .pred %p;
  .shared .align 16 .b8 kept[4096];
  ld.param.u64 %rd1, [at]; ld.param.u32 %r1, [count]; mov.u32 %r2, %tid.x; mov.u32 %r4, kept;
  cvt.rn.f32.u32 %f1, %r2; mov.f32 %f2, %f1; mov.f32 %f3, %f1; mov.f32 %f4, %f1;
  {first}
AGAIN:
  .pragma "nounroll";
  mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32
    {{%f1, %f2, %f3, %f4}}, {{%r2, %r2, %r2, %r2}}, {{%r2, %r2}}, {{%f1, %f2, %f3, %f4}};
  ex2.approx.ftz.f32 %f1, %f1; ex2.approx.ftz.f32 %f2, %f2;
  st.shared.f32 [%r4], %f1; bar.sync 0;
  sub.u32 %r1, %r1, 1; setp.ne.u32 %p, %r1, 0;
  @%p bra AGAIN;
  add.f32 %f1, %f1, %f2; add.f32 %f3, %f3, %f4; add.f32 %f1, %f1, %f3; st.global.f32 [%rd1], %f1;
  ret;
}}
"""
LAUNCH = (
    "call void @mosaic_gpu_launch_kernel(ptr %0, "
    + ", ".join(f"i32 {n}" for n in (1, 2, 3, 0, 0, 0, 384, 1, 1, 100_000))
    + ", ptr %1, ptr %2)"
)


def dump(folder, stem, *kernels):
    text = ".version 8.0\n.target sm_90a\n.address_size 64\n" + "".join(kernels)
    (folder / f"{stem}.ptx").write_text(text)


def test_what_is_in_a_dump(tmp_path):
    plain = KERNEL.format(name="plain", threads=128, first="")
    dump(tmp_path, "module_1.jit", plain, KERNEL.format(name="other", threads="16, 16", first=""))
    dump(tmp_path, "attend_0", KERNEL.format(name="attend", threads=384, first="setmaxnreg.dec.sync.aligned.u32 40;"))
    (tmp_path / "module_1.jit.thunk_sequence.txt").write_text(
        "001: kKernel [source | sink] plain grid: [4, 1, 1] threads: [128, 1, 1] shared_memory: 2000 bytes\n"
    )
    (tmp_path / "attend_0.ll").write_text(LAUNCH)
    (tmp_path / "module_1.jit.2.ptx").write_text("")
    (tmp_path / "triton").mkdir()
    dump(tmp_path / "triton", "soft", KERNEL.format(name="soft", threads=64, first=""))
    (tmp_path / "triton/soft.compile_info").write_text("num_warps: 2\nshared_mem_bytes: 3000\n")
    found = {kernel.name: kernel for kernel in gpu_schedule.read(tmp_path, CHIPS["h200"])}
    assert {name: (k.threads, k.shared, k.setmaxnreg) for name, k in found.items()} == {
        "plain": (128, 4096 + 2000, ()),
        "other": (256, 4096, ()),
        "attend": (384, 104096, ("dec 40",)),
        "soft": (64, 4096 + 3000, ()),
    }
    assert (found["attend"].blocks, found["attend"].limiter) == (2, "shared memory")
    assert found["plain"].blocks == 16 and found["plain"].limiter == "warps"
    for kernel in found.values():
        assert (kernel.target, kernel.mma_sync, kernel.wgmma, kernel.spills) == ("sm_90a", 1, 0, 0)
        (loop,) = kernel.loops
        assert (loop.classes["mufu"], loop.matmuls) == (2, {"HMMA.16816.F32.BF16": 1})
        assert loop.classes["sync"] == loop.classes["shared"] == 1 and loop.stalls > loop.instructions


def test_bounds_count_the_warpgroups_that_compute(tmp_path):
    dump(tmp_path, "attend", KERNEL.format(name="attend", threads=384, first="setmaxnreg.dec.sync.aligned.u32 40;"))
    (kernel,) = gpu_schedule.read(tmp_path, CHIPS["h200"])
    (loop,) = kernel.loops
    groups = kernel.blocks * 2  # of three warpgroups one only copies
    need = gpu_schedule.bounds(kernel, loop)
    assert need == {"tensor": groups * 4, "issue": groups * loop.instructions, "mufu": groups * 2 * 8}
    assert gpu_schedule.busy(kernel, loop) == need["tensor"] / (need["tensor"] + max(need["issue"], need["mufu"]))


def test_what_the_assembler_refuses_is_said(tmp_path):
    dump(tmp_path, "wrong", KERNEL.format(name="wrong", threads=128, first="nonsense.u32 40;"))
    with pytest.raises(RuntimeError, match="ptxas refuses .*wrong.ptx: .*nonsense"):
        gpu_schedule.read(tmp_path, CHIPS["h200"])


@pytest.mark.parametrize("chip, target", [("b200", "sm_100a"), *slow(("a100", "sm_80"))])
def test_a_program_of_xla(chip, target):
    kernels, _ = compiled_for_gpu(chip, "tests.experiments.hardware.compile_for_gpu", timeout=100)
    assert {kernel.target for kernel in kernels} == {target}
    assert all(kernel.registers and kernel.threads and kernel.blocks for kernel in kernels)
