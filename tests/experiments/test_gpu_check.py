"""experiments.gpu_check: what it asks, in which order, what it makes of answers, crashes and a second start."""
import contextlib
import json

import pytest

from experiments import benchmark_worker, gpu_cases, gpu_check
from experiments.gpu_cases import Case
from pallas_kernels import gpu_chips
from pallas_kernels.attention import api


class Stub:
    """A worker that knows all answers but those in `lost`."""
    ready, lost, asked = {"device": {"kind": "a stub"}}, (), []

    def __init__(self, *how):
        pass

    def ask(self, line):
        case = Case(**json.loads(line))
        self.asked.append(case)
        if case.route in self.lost:
            raise benchmark_worker.WorkerFailed("ended by signal 11")
        if case.kind == "right":
            return {"error": {"out": 0.1 if case.soft_cap else 1e-3, "dq": 1e-4}, "limit": 1e-2}
        return {"tflops": 500.0 if case.route == "cudnn" else 550.0, "seconds": [1.0]}

    def close(self):
        pass


@pytest.fixture
def stub(monkeypatch):
    monkeypatch.setattr(benchmark_worker, "Worker", Stub)
    monkeypatch.setattr(Stub, "asked", [])
    return Stub


def run(folder, *options) -> str:
    assert gpu_check.main(["--out", str(folder), *options]) == 0
    return json.loads((folder / "gpu_check.json").read_text())["answers"]


def test_what_matters_most_comes_first(stub, tmp_path, capsys):
    answers = run(tmp_path)
    first = [case.kind for case in stub.asked[:4]], [(case.kind, case.length) for case in stub.asked[4:8]]
    assert first == (["right"] * 4, [("time", 8192)] * 4) and stub.asked[0].route == "cudnn"
    assert len({case.name for case in stub.asked}) == len(stub.asked) == len(answers)
    lines = {line.split("  ")[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines["time mosaic forward causal length=8192"].split()[-1] == "1.1"
    assert lines["time jax_triton forward causal length=16384 block=64"].split()[-1] == "1.1"
    assert "WRONG: out off by 1.0e-01" in lines["right mosaic causal length=500 head_size=64 soft_cap=5.0"]


def test_a_case_that_is_lost_costs_itself_alone_and_is_not_asked_again(stub, tmp_path, monkeypatch):
    monkeypatch.setattr(stub, "lost", ("mosaic",))
    answers = run(tmp_path, "--routes", "cudnn,mosaic")
    assert answers["right mosaic causal"] == {"failed": "ended by signal 11"}
    assert answers["right cudnn causal pieces=2"]["error"]["out"] == 1e-3
    stub.asked.clear()
    assert run(tmp_path, "--routes", "cudnn,mosaic") == answers and not stub.asked


def test_it_stops_in_time_and_goes_on(stub, tmp_path):
    assert run(tmp_path, "--minutes", "0") == {}
    assert run(tmp_path)


def test_no_gpu_is_one_line(tmp_path, capsys):
    assert gpu_check.benchmark.command(gpu_check.main, ["--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: there is no GPU that jax can use here") and "bench_kernels --chip h200" in said


@pytest.mark.parametrize("case", [
    Case("right", "chunked", mask="packed", length=70, head_size=16, key_heads=2, dtype="float32"),
    Case("right", "chunked", mask="sinks", length=130, head_size=8, pieces=2, soft_cap=3.0),
    Case("right", "reference", mask="window", length=120, head_size=8, dtype="float16")], ids=lambda case: case.name)
def test_right_answers_are_within_the_limit(case):
    found = gpu_cases.answer(case)
    assert list(found["error"]) == ["out", "lse", "dq", "dk", "dv"]
    assert 0 < max(found["error"].values()) <= found["limit"]


def test_a_route_that_cannot_says_why():
    assert "float16" in gpu_cases.answer(Case("right", "tpu", dtype="float16"))["cannot"]


def test_useful_work():
    """Two matmuls of half the pairs, forward: 16384 tokens, 2048 numbers wide; five for two backward."""
    forward = Case("time", "cudnn", length=8192)
    assert forward.flops() == 4 * 2 * 8192**2 * 2048 / 2
    assert Case("time", "cudnn", "backward", length=8192, head_size=64).flops() == 2.5 * forward.flops()
    assert Case("time", "cudnn", mask="full", length=8192).flops() == 2 * forward.flops()


@pytest.mark.parametrize("case", [Case("right", "chunked", mask="packed", length=64, head_size=8, pieces=2),
                                  Case("time", "chunked", "backward", length=64)], ids=lambda case: case.name)
def test_exported_programs_answer_where_the_kernel_is_not(case, tmp_path, monkeypatch):
    pytest.importorskip("flatbuffers", reason="flatbuffers, which jax.export writes, is not installed")
    monkeypatch.setattr(gpu_cases.Export, "platform", "cpu")
    monkeypatch.setattr(gpu_cases, "BATCH_TOKENS", 64)
    monkeypatch.setattr(gpu_chips, "target", lambda chip: contextlib.nullcontext())
    alone = gpu_cases.answer(case)
    gpu_cases.export(case, tmp_path, "h200")
    monkeypatch.setattr(api, "select", None)
    found = gpu_cases.answer(case, tmp_path)
    assert found.keys() == alone.keys() and found.get("error") == alone.get("error")


@pytest.mark.slow
def test_a_worker_of_its_own_answers(tmp_path):
    """Real processes, on the CPU, in miniature: right answers, times and a training step."""
    asked = [Case("right", "chunked", length=64, head_size=8), Case("time", "reference", length=64),
             Case("step", "chunked", length=64), Case("right", "cudnn")]
    record = {"answers": {}}
    start = lambda: benchmark_worker.Worker("experiments.gpu_check", {"folder": str(tmp_path / "none")},
                                            {"JAX_PLATFORMS": "cpu"}, 100)
    gpu_check.ask(asked, record, float("inf"), lambda: None, start)
    right, time, step, cannot = (record["answers"][case.name] for case in asked)
    assert right["error"]["dq"] <= right["limit"] and time["tflops"] > 0 and step["tokens_per_second"] > 0
    assert "cannot" in cannot or "failed" in cannot
