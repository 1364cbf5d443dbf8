"""Registers, spills and loops of the GPU kernels that XLA's CUDA compiler, Mosaic GPU and Triton make, with no GPU.

A program is compiled in a process of its own, whose ENVIRONMENT makes the compilers dump the PTX of every kernel.
`read` has NVIDIA's assembler compile the PTX once more, as XLA did, and looks at the machine code. It is a lint, not a
clock: it finds spills, old tensor instructions and fat loops. It does not see waits for memory, for barriers and for
the other warps.

In a loop with matmuls, with all computing warpgroups of a processor in it, three units can be the bottleneck:

    tensor      cycles that its tensor cores are busy
    issue       instructions: each of its four schedulers issues one per cycle, and holds one warp of each warpgroup
    mufu        cycles of its exponential units: a warp's instruction takes one of them eight
"""

import collections
import dataclasses
import importlib.util
import pathlib
import re
import shutil
import subprocess
import tempfile

from experiments.settings import extras
from pallas_kernels.gpu_chips import Chip

_LAUNCH = re.compile(r"@mosaic_gpu_launch_kernel\(ptr \S+((?:, i32 \d+)+)")
_THUNK = re.compile(r"k\w*Kernel\b.*?\] (\S+) .*shared_memory: (\d+)")
_THREADS = re.compile(r"\.(?:reqntid|maxntid) (\d+)(?:, (\d+))?(?:, (\d+))?")
_REGISTERS = re.compile(r"setmaxnreg\.(inc|dec)\S*\s+(\d+)")
_PROPERTIES = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_INSTRUCTION = re.compile(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)(.*?);\s+/\* 0x[0-9a-f]{16} \*/$")
_CONTROL = re.compile(r"\s+/\* 0x([0-9a-f]{16}) \*/$")
_LABEL = re.compile(r"(\.L_x_\d+):$")
_GROUP_MATMUL = re.compile(r"([HQI])GMMA\.(\d+)x(\d+)x(\d+)")
# opcodes by class, the first that matches; an opcode that matches none is "integer and other"
_CLASSES = {
    "tensor": r"[HQI]GMMA|HMMA|UTC\w*MMA",
    "mufu": r"MUFU",
    "float32": r"F(FMA|MUL|ADD|MNMX3?|SEL|SETP|2F\w*|CHK)",
    "float16": r"H(FMA2|MUL2|ADD2|MNMX2)",
    "bulk copy": r"UTMA\w+|UBLKCP",
    "async copy": r"LDGSTS",
    "global": r"LDG|STG|ATOMG|RED\w*",
    "shared": r"LDS\w*|STS\w*|ATOMS",
    "spill": r"LDL|STL",
    "sync": r"BAR|SYNCS|WARPSYNC|WARPGROUP|DEPBAR|MEMBAR|ERRBAR|ELECT|FENCE|UCGABAR\w*",
    "shuffle": r"SHFL",
    "branch": r"BRA|BRX|EXIT|RET|CALL|BSSY|BSYNC|BREAK",
}
_SHORT = 24  # a loop without matmuls is shown only if it has at least this many instructions
_MUFU = 8  # cycles of a warp's instruction


@dataclasses.dataclass
class Loop:
    """An innermost loop of one warp.

    Attributes:
      instructions: their number.
      stalls: least cycles that the compiler has the warp wait between instructions.
      classes: number of instructions by class.
      matmuls: number of matmul instructions by opcode.
      tensor: cycles that the matmuls of the warp's warpgroup occupy a processor's tensor cores.
    """

    instructions: int
    stalls: int
    classes: dict[str, int]
    matmuls: dict[str, int]
    tensor: float


@dataclasses.dataclass
class Kernel:
    """Resources and instructions of one compiled kernel.

    Attributes:
      name, target: of the PTX; the target is such as sm_90a.
      registers: of a thread when it starts.
      stack, spills: bytes of a thread; spills are stores and loads.
      shared: bytes of shared memory of a block.
      threads: of a block.
      instructions: of the machine code.
      wgmma, mma_sync, tcgen05: matmul instructions, by generation.
      tma, cp_async: copies to shared memory, in bulk and by thread.
      serialized: whether the assembler makes each wgmma wait for the one before, where it cannot prove this needless.
      setmaxnreg: how the warpgroups share registers, e.g. ("inc 232", "dec 40").
      blocks, limiter: the number of blocks that a processor holds at a time, and the resource that limits it.
      loops: in program order.
    """

    name: str
    target: str
    registers: int = 0
    stack: int = 0
    spills: int = 0
    shared: int = 0
    threads: int = 0
    instructions: int = 0
    wgmma: int = 0
    mma_sync: int = 0
    tcgen05: int = 0
    tma: int = 0
    cp_async: int = 0
    serialized: bool = False
    setmaxnreg: tuple[str, ...] = ()
    blocks: int = 0
    limiter: str = ""
    loops: list[Loop] = dataclasses.field(default_factory=list)


def missing(*tools: str) -> str:
    """The reason why this machine cannot compile for GPUs, or "" where it can.

    tools: NVIDIA's programs that are needed; default the assembler and the disassembler.
    """
    absent = [name for name in tools or ("ptxas", "nvdisasm") if not _tool(name)]
    return extras.missing("jax_cuda13_plugin") or extras.not_installed(absent)


def environment(folder: str | pathlib.Path) -> dict[str, str]:
    """Environment variables, to be set before jax starts, that make the compilers dump into `folder`."""
    return {
        "JAX_PLATFORMS": "cpu",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "JAX_TRITON_DUMP_DIR": str(folder),
        "XLA_FLAGS": f"--xla_dump_to={folder} --xla_dump_emitter_re=ptx",
        "MOSAIC_GPU_DUMP_TO": str(folder),
        "MOSAIC_GPU_DUMP_PTX": "1",
        "MOSAIC_GPU_DUMP_HOST_LLVM": "1",
    }


def read(folder: str | pathlib.Path, chip: Chip) -> list[Kernel]:
    """The kernels in a dump of programs that were compiled for `chip`.

    Raises RuntimeError with the assembler's message where it refuses a kernel, such as Triton's that XLA only carries.
    """
    folder, kernels = pathlib.Path(folder), []
    shared = {
        name: int(size)
        for path in folder.glob("*thunk_sequence.txt")
        for name, size in _THUNK.findall(path.read_text())
    }
    for path in sorted(folder.rglob("*.ptx")):
        if ".entry" in (text := path.read_text()):
            for kernel in _compiled(path, text):
                kernel.shared += shared.get(kernel.name, 0) or _dynamic(path)
                _occupy(kernel, chip)
                kernels.append(kernel)
    return kernels


def bounds(kernel: Kernel, loop: Loop) -> dict[str, float]:
    """{unit: least cycles} that a processor needs for one iteration of all its computing warpgroups."""
    groups = kernel.threads // 128 * kernel.blocks
    groups = max(1, groups - kernel.blocks if kernel.setmaxnreg else groups)  # one of a block only copies
    return {
        "tensor": groups * loop.tensor,
        "issue": groups * loop.instructions,
        "mufu": groups * _MUFU * loop.classes.get("mufu", 0),
    }


def busy(kernel: Kernel, loop: Loop) -> float:
    """The fraction of the loop's time that the tensor cores are busy, if their work overlaps with no other."""
    cycles = bounds(kernel, loop)
    return cycles["tensor"] / (cycles["tensor"] + max(cycles["issue"], cycles["mufu"]))


def _tool(name):
    """The path of one of NVIDIA's programs, from pip's packages or else from PATH; None where it is not installed."""
    packages = importlib.util.find_spec("nvidia")
    folders = packages.submodule_search_locations if packages else []
    return next(
        (str(path) for folder in folders for path in pathlib.Path(folder).glob(f"*/bin/{name}")), shutil.which(name)
    )


def _dynamic(path):
    """Bytes of dynamic shared memory with which the host launches the kernel in a PTX file."""
    triton, mosaic = path.with_suffix(".compile_info"), path.with_suffix(".ll")
    if triton.exists():
        return int(re.search(r"shared_mem_bytes: (\d+)", triton.read_text())[1])
    launch = _LAUNCH.search(mosaic.read_text()) if mosaic.exists() else None
    return int(re.findall(r"\d+", launch[1].replace("i32", ""))[9]) if launch else 0  # after three triples


def _compiled(path, ptx):
    """Yields a Kernel for each entry of a PTX file, without the shared memory that the host asks for at launch."""
    target = re.search(r"^\.target (\w+)", ptx, re.M)[1]
    with tempfile.TemporaryDirectory() as folder:
        binary = f"{folder}/cubin"
        log = _run("ptxas", "-v", f"-arch={target}", path, "-o", binary).stderr
        code = _code(_run("nvdisasm", "-c", "-hex", binary).stdout)
    for part in log.split("Compiling entry function ")[1:]:
        name = re.match(r"'(\S+)'", part)[1]
        body = re.split(r"\.entry (?=[\w$])", ptx[ptx.index(f".entry {name}(") + 6 :])[0]
        stack, *spills = map(int, _PROPERTIES.search(part).groups())
        threads = [int(n or 1) for n in _THREADS.search(body).groups()]
        kernel = Kernel(name, target, int(re.search(r"Used (\d+) registers", part)[1]), stack, sum(spills))
        kernel.shared = int((re.search(r"(\d+) bytes smem", part) or "00")[1])
        kernel.serialized = bool(re.search(rf"serialized .*'{re.escape(name)}'", log))
        kernel.threads = threads[0] * threads[1] * threads[2]
        kernel.setmaxnreg = tuple(map(" ".join, _REGISTERS.findall(body)))
        _count(kernel, *code[name])
        yield kernel


def _run(tool, *arguments):
    done = subprocess.run([_tool(tool), *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{tool} refuses {arguments[-3]}: {done.stderr.strip()}")
    return done


def _code(text):
    """{kernel: (instructions, labels)}: [(opcode, operands, stall cycles)], and {label: index of its instruction}."""
    code = {}
    for line in text.splitlines():
        if section := re.search(r"\.section\s+\.text\.([\w$]+),", line):
            instructions, labels = code.setdefault(section[1], ([], {}))
        elif label := _LABEL.match(line):
            labels[label[1]] = len(instructions)
        elif instruction := _INSTRUCTION.match(line):
            instructions.append((instruction[1], instruction[2], 0))
        elif control := _CONTROL.match(line):
            instructions[-1] = (*instructions[-1][:2], int(control[1], 16) >> 41 & 15)
    return code


def _count(kernel, instructions, labels):
    """Fills in a kernel's counts of instructions, and its loops."""
    base = collections.Counter(opcode.split(".")[0] for opcode, *_ in instructions)
    total = lambda pattern: sum(n for opcode, n in base.items() if re.fullmatch(pattern, opcode))
    kernel.instructions = len(instructions)
    kernel.wgmma, kernel.mma_sync = total("[HQI]GMMA"), total("[HID]MMA")
    kernel.tcgen05, kernel.tma = total(r"UTC\w*MMA\w*"), total(r"UTMA\w*|UBLKCP")
    kernel.cp_async = base["LDGSTS"]
    for start, end in _innermost(instructions, labels):
        loop = _loop(instructions[start:end])
        if loop.matmuls or loop.instructions >= _SHORT:
            kernel.loops.append(loop)


def _innermost(instructions, labels):
    """[(start, end)] of the loops, found by their backward branches, that have no loop inside."""
    spans = []
    for index, (opcode, operands, _) in enumerate(instructions):
        label = re.search(r"\.L_x_\d+", operands)
        if opcode.split(".")[0] == "BRA" and label and labels[label[0]] < index:
            spans.append((labels[label[0]], index + 1))
    return [s for s in spans if not any(s != t and s[0] <= t[0] and t[1] <= s[1] for t in spans)]


def _loop(instructions):
    opcodes = [opcode for opcode, *_ in instructions]
    classes = collections.Counter(map(_class, opcodes))
    matmuls = collections.Counter(opcode for opcode in opcodes if "MMA" in opcode)
    return Loop(
        len(instructions),
        sum(stall for *_, stall in instructions),
        dict(classes),
        dict(matmuls),
        sum(n * _tensor_cycles(opcode) for opcode, n in matmuls.items()),
    )


def _class(opcode):
    base = opcode.split(".")[0]
    return next((name for name, pattern in _CLASSES.items() if re.fullmatch(pattern, base)), "integer and other")


def _tensor_cycles(opcode):
    """Cycles that one instruction of a warpgroup's four warps occupies a processor, dense, at Hopper's wgmma rate."""
    if group := _GROUP_MATMUL.match(opcode):
        return int(group[2]) * int(group[3]) * int(group[4]) / (2048 if group[1] == "H" else 4096)
    return {"HMMA.16816": 16 * 8 * 16 / 512, "HMMA.1688": 16 * 8 * 8 / 512}.get(".".join(opcode.split(".")[:2]), 0)


def _occupy(kernel, chip):
    """Fills in a kernel's blocks and limiter. Warps get registers by 256, blocks get shared memory by 128 bytes."""
    warps = -(-kernel.threads // 32)
    warp_registers = -(-kernel.registers * 32 // 256) * 256
    shared = -(-(kernel.shared + chip.shared - chip.block_shared) // 128) * 128
    limits = {
        "registers": 2**14 // warp_registers * 4 // warps,
        "shared memory": chip.shared // shared,
        "warps": 64 // warps,
        "blocks": 32,
    }
    kernel.limiter = min(limits, key=limits.get)
    kernel.blocks = limits[kernel.limiter]
