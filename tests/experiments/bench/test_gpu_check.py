"""experiments.bench.gpu_check: what it asks, in which order, what it makes of answers, crashes and a second start."""

import ast
import contextlib
import dataclasses
import itertools
import json
import subprocess
import sys
import threading
import types

import jax
import pytest

from experiments.bench import gpu_check
from experiments.bench.harness import gpu_asking, gpu_cases, gpu_decode, options, sides
from experiments.bench.harness.gpu_cases import PEER, Answers, Case
from pallas_kernels import gpu_chips
from pallas_kernels.attention import api
from tests.helpers import ROOT, slow

# what the GPU's machine need not have; flax and optax bring others, which may be imported
ABSENT = (
    "absl",
    "grain",
    "hypothesis",
    "jax_triton",
    "ml_collections",
    "rich",
    "safetensors",
    "tensorboardX",
    "tokamax",
    "tokenizers",
    "torch",
    "tqdm",
    "transformers",
    "triton",
)
BLOCK = f"""
import sys
ours = ("experiments", "longctx", "pallas_kernels", "__main__")
class Absent:
    def find_spec(self, name, path=None, target=None):
        frame = sys._getframe(1)
        while frame and "importlib" in frame.f_code.co_filename:
            frame = frame.f_back
        if name.split(".")[0] in {ABSENT} and frame and frame.f_globals["__name__"].split(".")[0] in ours:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""


class Stub:
    """A worker that answers every case, but fails for routes in `lost`; `asked` records the requests in order."""

    ready, lost, asked, busy = {"device": {"kind": "a stub"}}, (), [], threading.Lock()

    def __init__(self, *how):
        pass

    def ask(self, line, limit):
        request = json.loads(line)
        case = Case(**request["case"])
        self.asked.append((request["method"], case))
        if case.route in self.lost:
            raise sides.WorkerFailed("ended by signal 11", "Segmentation fault")
        if request["method"] == "prepare":
            return {"peak_mb": 1.0}
        if case.kind in gpu_cases.ALONE:
            assert self.busy.acquire(blocking=False), "two were timed at once"
            self.busy.release()
        return self.answer(case)

    def answer(self, case):
        if case.kind == "step":
            return {"tokens_per_second": 5e4, "peak_bytes": 2**33, "losses": [10.4, 10.3]}
        if case.kind == "decode_time":
            return {"bytes_per_second": 3.6e12, "of_bandwidth": 0.75, "seconds": [1.0]}
        if case.kind == "time":
            return {"tflops": 500.0 if case.route == PEER else 550.0, "seconds": [1.0]}
        return {"error": {"out": 0.1 if case.soft_cap else 1e-3, "dq": 1e-4}, "limit": 1e-2}

    def close(self):
        pass


@pytest.fixture
def stub(monkeypatch):
    monkeypatch.setattr(sides, "Worker", Stub)
    monkeypatch.setattr(Stub, "asked", [])
    return Stub


def run(folder, *options) -> dict:
    assert gpu_check.main(["--out", str(folder), *options]) == 0
    return json.loads((folder / "gpu_check.json").read_text())["answers"]


def test_what_matters_most_comes_first(stub, tmp_path, capsys):
    answers = run(tmp_path)
    asked = [case for request, case in stub.asked if request == "answer"]
    assert len({case.name for case in asked}) == len(asked) == len(answers)
    kinds = [(kind, len(list(cases))) for kind, cases in itertools.groupby(asked, lambda case: case.kind)]
    assert kinds[:4] == [("right", 8), ("cross_entropy", 2), ("time", 20), ("step", 2)]
    assert kinds[4:6] == [("decode", 2), ("decode_time", 3)]
    assert {(case.route, case.pieces) for case in asked[:8]} == set(itertools.product(gpu_check.ROUTES, (1, 2)))
    assert [case.length for case in asked[10:30]] == [8192] * 10 + [16384] * 10
    said = capsys.readouterr().out
    lines = {line.split("  ")[0]: line for line in said.splitlines()}
    assert lines["time mosaic_gpu causal length=8192 forward"].split()[-2] == "1.1"
    assert lines["time jax_triton causal length=16384 block=64 forward"].split()[-2] == "1.1"
    timed = "decode_time triton_decode length=131072 kv_heads=8 queries=1"
    assert "3,600.00 GB/s of keys and values, 0.75 of the memory's" in lines[timed]
    assert "WRONG: out off by 1.0e-01" in lines["right mosaic_gpu causal head_dim=64 soft_cap=5.0"]
    assert "50,000 tokens/s, 8.59 GB at most, losses 10.4 10.3" in said
    assert "| `mosaic_gpu` | 7 of 8 | 550 (1.1) | 550 (1.1) | 550 (1.1) | 550 (1.1) |" in said


def test_what_is_timed_is_compiled_before_the_first_is_timed(stub, tmp_path):
    run(tmp_path, "--routes", "mosaic_gpu,chunked")
    of_8k = [request for request, case in stub.asked if (case.kind, case.length) == ("time", 8192)]
    assert of_8k == 6 * ["prepare"] + 6 * ["answer"]


def test_a_case_that_is_lost_costs_itself_alone_and_is_not_asked_again(stub, tmp_path, monkeypatch):
    monkeypatch.setattr(stub, "lost", ("mosaic_gpu",))
    answers = run(tmp_path, "--routes", "cudnn,mosaic_gpu")
    failed = answers["right mosaic_gpu causal kv_heads=2"]
    assert (failed["failed"], failed["log"]) == ("ended by signal 11", "Segmentation fault")
    assert answers["right cudnn causal kv_heads=2 pieces=2"]["error"]["out"] == 1e-3
    stub.asked.clear()
    assert run(tmp_path, "--routes", "cudnn,mosaic_gpu") == answers and not stub.asked


def test_it_stops_in_time_and_goes_on(stub, tmp_path):
    assert run(tmp_path, "--minutes", "0") == {}
    assert run(tmp_path)


def test_answers_of_two_devices_are_not_mixed(stub, tmp_path, monkeypatch, capsys):
    run(tmp_path, "--routes", "chunked")
    monkeypatch.setattr(stub, "ready", {"device": {"kind": "another"}})
    assert options.command(gpu_check.main, ["--out", str(tmp_path)]) == 2
    assert "are of {'kind': 'a stub'}, and this is {'kind': 'another'}; give another --out" in capsys.readouterr().err


def test_a_case_that_the_end_of_the_time_cuts_off_is_left_open(tmp_path):
    class Slow(Stub):
        def ask(self, line, limit):
            asker.until = 0.0
            raise sides.WorkerFailed(f"no answer within {limit:.0f} s")

    record = {"answers": {}}
    asker = gpu_asking.Asker(record, float("inf"), Slow, lambda: None, lambda *said: None)
    asker.ask([Case("right", "chunked"), Case("right", "mosaic_gpu")])
    assert record["answers"] == {}


def test_a_process_that_hangs_is_ended(tmp_path, monkeypatch):
    hangs = tmp_path / "hangs"
    hangs.write_text("#!/bin/sh\necho a stack >&2\nexec sleep 60\n")
    hangs.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(hangs))
    with pytest.raises(sides.WorkerFailed, match="no answer within 1 s") as failed:
        sides.Worker("experiments.bench.gpu_check", {}, {}, 1.0)
    assert failed.value.log == "a stack"


def test_no_gpu_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gpu_check, "cases", lambda routes: [[Case("right", "chunked")]])
    assert options.command(gpu_check.main, ["--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: there is no GPU that jax can use here") and "bench.kernels --chip h200" in said


@pytest.mark.parametrize(
    "case",
    [
        Case("right", "chunked", mask="packed", length=70, head_dim=16, kv_heads=2, dtype="float32"),
        *slow(Case("right", "chunked", mask="sinks", length=130, head_dim=8, pieces=2, soft_cap=3.0, kv_heads=2)),
        Case("right", "reference", mask="window", length=120, head_dim=8, dtype="float16"),
        Case("cross_entropy", "chunked", length=70),
        Case("decode", "chunked", rows=3, length=70, head_dim=16, kv_heads=2, queries=3, soft_cap=5.0),
    ],
    ids=lambda case: case.name,
)
def test_right_answers_are_within_the_limit(case):
    found = Answers().answer(case)
    assert (
        list(found["error"])
        == {
            "right": ["out", "lse", "dq", "dk", "dv"],
            "cross_entropy": ["score", "lse", "dx", "dhead"],
            "decode": ["out", "lse"],
        }[case.kind]
    )
    assert 0 < max(found["error"].values()) <= found["limit"]


def test_what_is_not_finite_is_wrong_and_no_crash():
    found = gpu_cases._compared(("out",), [[1.0, float("nan")]], "float32", 4, lambda: [[1.0, 2.0]])
    assert found["error"] == {"out": float("inf")} and not gpu_check.is_right(found)


@pytest.mark.slow
def test_cudnn_is_asked_for_parts_that_it_can_do():
    """Queries are sharded like keys, since cuDNN does not take all queries with half of the keys."""
    case = Case("right", "cudnn", rows=1, length=128, heads=2, pieces=2)
    assert Answers(chip="h200").answer(case) == {"lowered": "for h200, not run"}


def test_a_decoding_step_is_held_to_the_memory(monkeypatch):
    """A step reads two numbers of 16 bits by row, key head, slot and dimension; an H200 reads 4.8e12 bytes/s."""
    case = Case("decode_time", "chunked", rows=2, length=64, heads=4, kv_heads=2, head_dim=8, queries=1)
    found = Answers().answer(case)
    assert found["of_bandwidth"] is None and found["bytes_per_second"] > 0  # of a CPU it is not known
    monkeypatch.setattr(jax, "devices", lambda: [types.SimpleNamespace(device_kind="NVIDIA H200")])
    seconds = 1e-6
    assert gpu_decode.of_bandwidth(case, seconds)["of_bandwidth"] == pytest.approx(
        2 * 2 * 2 * 64 * 2 * 8 / seconds / 4.8e12
    )


def test_what_cannot_be_done_says_why(monkeypatch):
    assert "float16" in Answers().answer(Case("right", "tpu", dtype="float16"))["cannot"]
    monkeypatch.setitem(gpu_cases.KINDS, "step", lambda *call: __import__("no_such_package"))
    assert Answers().answer(Case("step", "auto")) == {"cannot": "needs no_such_package, which is not installed"}


def test_useful_work():
    """Two matmuls of half the pairs, forward: 16384 tokens, 2048 numbers wide; five for two backward."""
    forward = Case("time", "cudnn", rows=2, length=8192, heads=16)
    assert forward.flops() == 4 * 2 * 8192**2 * 2048 / 2
    assert dataclasses.replace(forward, op="backward").flops() == 2.5 * forward.flops()
    assert dataclasses.replace(forward, mask="full").flops() == 2 * forward.flops()


@pytest.mark.parametrize(
    "case",
    [
        Case("right", "chunked", mask="packed", length=64, head_dim=8, pieces=2),
        Case("decode", "chunked", rows=2, length=64, head_dim=8, queries=2),
        *slow(Case("cross_entropy", "chunked", length=64), Case("time", "chunked", "backward", rows=1, length=64)),
    ],
    ids=lambda case: case.name,
)
def test_exported_programs_answer_where_the_kernel_is_not(case, tmp_path, monkeypatch):
    pytest.importorskip("flatbuffers", reason="flatbuffers, which jax.export writes, is not installed")
    monkeypatch.setattr(gpu_cases.Export, "platform", "cpu")
    monkeypatch.setattr(gpu_chips, "target", lambda chip: contextlib.nullcontext())
    alone = Answers().answer(case)
    gpu_cases.export(case, tmp_path, "h200")
    monkeypatch.setattr(api, "select", None)
    found = Answers(tmp_path).answer(case)
    assert found.keys() == alone.keys() and found.get("error") == alone.get("error")


def test_another_process_reads_the_exported_programs(tmp_path, monkeypatch):
    pytest.importorskip("flatbuffers", reason="flatbuffers, which jax.export writes, is not installed")
    monkeypatch.setattr(gpu_cases.Export, "platform", "cpu")
    monkeypatch.setattr(gpu_chips, "target", lambda chip: contextlib.nullcontext())
    gpu_cases.export(Case("decode", "chunked", rows=1, length=64, head_dim=8, queries=2), tmp_path, "h200")
    imports = "from pathlib import Path; from experiments.bench import gpu_check"
    code = f"{imports}; print(gpu_check._readable_programs(Path({str(tmp_path)!r})))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert "0 of 1 programs can be read for CUDA" in done.stdout, done.stderr[-1000:]  # it is the CPU's


def test_prepare_says_what_to_take_along(tmp_path, monkeypatch, capsys):
    def export(case, folder, chip):
        folder.mkdir(exist_ok=True)
        (folder / f"{case.problem}.bin").write_bytes(bytes(1000))

    (tmp_path / "programs").mkdir()
    (tmp_path / "programs/of before.bin").write_bytes(bytes(10**6))
    monkeypatch.setattr(gpu_check, "export", export)
    assert gpu_check.main(["--prepare", "h100", "--out", str(tmp_path)]) == 0
    *_, said, command = capsys.readouterr().out.splitlines()
    problems = {
        case.problem for case in sum(gpu_check.cases(gpu_check.EXPORTED), []) if case.route in gpu_check.EXPORTED
    }
    assert f"programs: {len(problems)} programs, {len(problems) / 1000:.1f} MB, for GPUs" in said
    assert command == f"python -m experiments.bench.gpu_check --programs {tmp_path / 'programs'} --out {tmp_path}"


def test_a_rehearsal_asks_the_same_in_miniature():
    asked = sum(gpu_check.cases([*gpu_check.ROUTES, *gpu_check.DECODERS]), [])
    small = list(map(gpu_check.rehearsed, asked))
    assert len({case.name for case in small}) == len({case.name for case in asked}) == len(asked)
    assert max(case.length for case in small) <= 512 and {case.kind for case in small} == set(gpu_cases.KINDS)


def test_the_folder_of_cuda_is_said_where_pip_has_none(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.delenv("CUDA_ROOT", raising=False)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/ptxas").touch()
    assert gpu_check.environment("cuda,cpu")["CUDA_ROOT"] == str(tmp_path)
    monkeypatch.setenv("CUDA_ROOT", "/elsewhere")
    assert "CUDA_ROOT" not in gpu_check.environment("cuda,cpu")


def test_nothing_is_imported_that_a_gpus_machine_may_lack():
    """All modules that gpu_check's files import, also inside functions, are importable without the ABSENT packages."""
    files = [
        ROOT / f"experiments/bench/{name}.py"
        for name in (
            "gpu_check",
            "harness/gpu_cases",
            "harness/gpu_decode",
            "harness/gpu_asking",
            "harness/sides",
            "harness/flops",
            "harness/record",
        )
    ]
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text()))]
    named = {f"{node.module}.{name.name}" for node in nodes if isinstance(node, ast.ImportFrom) for name in node.names}
    named |= {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    code = BLOCK + f"import pkgutil\nfor name in {sorted(named)}: pkgutil.resolve_name(name)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-1000:]


@pytest.mark.slow
def test_workers_of_their_own_answer_without_these_packages(tmp_path, monkeypatch):
    """Real processes, on the CPU, in miniature: right answers, times and a training step."""
    (tmp_path / "sitecustomize.py").write_text(BLOCK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    groups = [
        [Case("right", "chunked", length=64, head_dim=8), Case("right", "cudnn")],
        [Case("time", "reference", length=64), Case("time", PEER, length=64)],
        [Case("step", "auto", length=64)],
    ]
    record, task = {"answers": {}}, {"programs": str(tmp_path / "none"), "chip": "h200"}
    start = lambda limit: sides.Worker("experiments.bench.gpu_check", task, gpu_check.environment("cpu"), limit)
    asker = gpu_asking.Asker(record, float("inf"), start, lambda: None, lambda *said: None)
    with contextlib.closing(asker):
        for group in groups:
            asker.ask(group)
    right, lowered, time, peer, step = (record["answers"][case.name] for case in sum(groups, []))
    assert right["error"]["dq"] <= right["limit"] and time["tflops"] > 0 < peer["tflops"]
    assert lowered["lowered"] == "for h200, not run"
    assert step["tokens_per_second"] > 0 and step["losses"][-1] < step["losses"][0]
