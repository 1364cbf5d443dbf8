"""What XLA's CUDA compiler, Mosaic GPU and Triton make of a program, with no GPU: registers, spills, loops.

A program is compiled in a process of its own, whose ENVIRONMENT makes the compilers dump the PTX of every kernel.
`read` has NVIDIA's assembler compile it once more, as XLA did, and looks at the machine code. It is a lint, not a
clock: it finds spills, old tensor instructions and fat loops. What is not in it: waits for memory, for barriers and
for the other warps.

In a loop with matmuls three units can be what a processor waits for, when all of its computing warpgroups are in it:

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
# opcodes by class, the first that fits; what fits none is "integer and other"
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
_SHORT = 24  # a loop without matmuls is shown from so many instructions on
_MUFU = 8  # cycles of a warp's instruction


@dataclasses.dataclass
class Loop:
    """An innermost loop of one warp.

    Attributes:
      instructions: in it.
      stalls: cycles that the compiler has the warp wait between them, at least.
      classes: instructions by class.
      matmuls: by opcode.
      tensor: cycles that its matmuls occupy a processor's tensor cores, those of the warp's warpgroup together.
    """

    instructions: int
    stalls: int
    classes: dict[str, int]
    matmuls: dict[str, int]
    tensor: float


@dataclasses.dataclass
class Kernel:
    """One compiled kernel.

    Attributes:
      name, target: of the PTX; e.g. sm_90a.
      registers: of a thread when it starts.
      stack, spills: bytes of a thread; spills are stores and loads.
      shared: bytes of shared memory of a block.
      threads: of a block.
      instructions: of the machine code.
      wgmma, mma_sync, tcgen05: matmul instructions, by generation.
      tma, cp_async: copies to shared memory, in bulk and by thread.
      serialized: whether the assembler had each wgmma wait for the one before, as it cannot prove that it need not.
      setmaxnreg: how its warpgroups share registers, e.g. ("inc 232", "dec 40").
      blocks, limiter: that a processor holds at a time, and what they are limited by.
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
    """Why nothing can be compiled for a GPU here; "" where it can. tools: of NVIDIA, by default those that also read
    machine code."""
    absent = [name for name in tools or ("ptxas", "nvdisasm") if not _tool(name)]
    return extras.missing("jax_cuda13_plugin") or extras.not_installed(absent)


def environment(folder: str | pathlib.Path) -> dict[str, str]:
    """What must be set before jax starts, for the compilers to dump into `folder`."""
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
    """The kernels in a dump, of programs compiled for `chip`.

    Raises RuntimeError with what the assembler says where it refuses one, as it does Triton's that XLA only carries.
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
    """Cycles that each unit of a processor needs at least for the loop, with all computing warpgroups in it."""
    groups = kernel.threads // 128 * kernel.blocks
    groups = max(1, groups - kernel.blocks if kernel.setmaxnreg else groups)  # one of a block only copies
    return {
        "tensor": groups * loop.tensor,
        "issue": groups * loop.instructions,
        "mufu": groups * _MUFU * loop.classes.get("mufu", 0),
    }


def busy(kernel: Kernel, loop: Loop) -> float:
    """The tensor cores' share of the loop's time where their work overlaps with none of the rest."""
    need = bounds(kernel, loop)
    return need["tensor"] / (need["tensor"] + max(need["issue"], need["mufu"]))


def _tool(name):
    """The path of one of NVIDIA's programs, those of pip's packages first; None where there is none."""
    packages = importlib.util.find_spec("nvidia")
    folders = packages.submodule_search_locations if packages else []
    return next(
        (str(path) for folder in folders for path in pathlib.Path(folder).glob(f"*/bin/{name}")), shutil.which(name)
    )


def _dynamic(path):
    """Bytes of shared memory that the host asks for when it launches the kernel of this PTX."""
    triton, mosaic = path.with_suffix(".compile_info"), path.with_suffix(".ll")
    if triton.exists():
        return int(re.search(r"shared_mem_bytes: (\d+)", triton.read_text())[1])
    launch = _LAUNCH.search(mosaic.read_text()) if mosaic.exists() else None
    return int(re.findall(r"\d+", launch[1].replace("i32", ""))[9]) if launch else 0  # after three triples


def _compiled(path, ptx):
    """A Kernel for each entry of a PTX file, all but for what the host decides."""
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
    """{kernel: (instructions [(opcode, operands, stall cycles)], {label: index of what follows it})}."""
    code = {}
    for line in text.splitlines():
        if section := re.search(r"\.section\s+\.text\.([\w$]+),", line):
            instructions, labels = code.setdefault(section[1], ([], {}))
        elif label := _LABEL.match(line):
            labels[label[1]] = len(instructions)
        elif found := _INSTRUCTION.match(line):
            instructions.append((found[1], found[2], 0))
        elif control := _CONTROL.match(line):
            instructions[-1] = (*instructions[-1][:2], int(control[1], 16) >> 41 & 15)
    return code


def _count(kernel, instructions, labels):
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
    """(start, end) of loops without a loop inside, as branches back tell them."""
    spans = []
    for at, (opcode, operands, _) in enumerate(instructions):
        label = re.search(r"\.L_x_\d+", operands)
        if opcode.split(".")[0] == "BRA" and label and labels[label[0]] < at:
            spans.append((labels[label[0]], at + 1))
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
    return next((name for name, known in _CLASSES.items() if re.fullmatch(known, base)), "integer and other")


def _tensor_cycles(opcode):
    """Of a processor, for one instruction of the four warps of a warpgroup; dense, at the rate of Hopper's wgmma."""
    if group := _GROUP_MATMUL.match(opcode):
        return int(group[2]) * int(group[3]) * int(group[4]) / (2048 if group[1] == "H" else 4096)
    return {"HMMA.16816": 16 * 8 * 16 / 512, "HMMA.1688": 16 * 8 * 8 / 512}.get(".".join(opcode.split(".")[:2]), 0)


def _occupy(kernel, chip):
    """Fills in how many blocks a processor holds: registers are given to warps by 256, shared memory by 128 bytes."""
    warps = -(-kernel.threads // 32)
    of_warp = -(-kernel.registers * 32 // 256) * 256
    shared = -(-(kernel.shared + chip.shared - chip.block_shared) // 128) * 128
    room = {
        "registers": 2**14 // of_warp * 4 // warps,
        "shared memory": chip.shared // shared,
        "warps": 64 // warps,
        "blocks": 32,
    }
    kernel.limiter = min(room, key=room.get)
    kernel.blocks = room[kernel.limiter]
