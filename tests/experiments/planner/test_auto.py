"""attention.strategy="auto": the predictions of the cost model, the choice, and a run that asks for it."""

import dataclasses
import json

import jax
import pytest

from experiments.hardware import targets
from experiments.hardware.targets import CHIPS, Target
from experiments.meter import rows
from experiments.planner import auto
from experiments.settings import config as configs
from longctx.config import AttentionConfig, Config, MemoryConfig, MeshConfig, ModelConfig, StageConfig
from longctx.context_parallel.api import STRATEGIES
from longctx.errors import UserError
from tests.experiments.run.test_processes import cut
from tests.experiments.train_helpers import ended_well

MODEL = ModelConfig(layers=2, d_model=4096, mlp_dim=64, heads=32, kv_heads=8, head_dim=128, vocab_size=64)
H100, V5P = (
    Target(name, CHIPS[name.split("x")[0].split(":")[0]], [], platform)
    for name, platform in (("h100x8", "cuda"), ("v5p:2x2x2", "tpu"))
)


def config_of(length, strategy="auto", layout="auto", model=MODEL, **mesh) -> Config:
    return Config(
        model=model,
        mesh=MeshConfig(**(mesh or {"context": 8})),
        batch_tokens=length,
        attention=AttentionConfig(strategy=strategy, layout=layout),
        stages=(StageConfig(seq_len=length, steps=2),),
    )


def predicted(config, lengths="document", target=H100) -> dict[str, auto.Candidate]:
    """The fastest candidate of each strategy."""
    (stage,) = auto.checks.check_settings(configs.stand_in(config))
    candidates, _ = auto._candidates(config, stage, target, lambda stage: rows.of_lengths(config, stage, lengths))
    return {candidate.strategy: candidate for candidate in auto._best_layouts(candidates)}


def settled(config, lengths="document", target=H100) -> tuple[str, str]:
    how = auto.settle(config, target, lambda stage: rows.of_lengths(config, stage, lengths)).attention
    return how.strategy, how.layout


def test_a_ring_hides_behind_a_long_document():
    ring, length = predicted(config_of(2**17, layout="zigzag"))["ring"], 2**17
    flops = MODEL.layers * MODEL.heads * MODEL.head_dim * length * (length + 1) / 2 / 8
    chip = CHIPS["h100"]
    seconds = flops / (1e12 * chip.tflops) * (4 / chip.forward + 10 / chip.backward)
    assert ring.computing == pytest.approx(seconds, rel=0.02)
    assert ring.links == 0 and ring.waiting < 0.01 * ring.computing
    assert settled(config_of(2**17)) == ("ring", "zigzag")


def test_packed_pages_on_many_devices_are_exchanged_by_need():
    best = predicted(config_of(2**19, context=64), "web")
    assert min(best.values(), key=lambda candidate: candidate.seconds).strategy == "dispatch"
    assert best["dispatch"].links < 0.2 * best["ring"].links
    assert best["dispatch"].waiting < 0.3 * best["dispatch"].computing
    even = predicted(config_of(2**19, layout="balanced(256)", context=64), "web")["dispatch"]
    uneven = predicted(config_of(2**19, layout="contiguous", context=64), "web")["dispatch"]
    assert even.waiting < uneven.waiting


def test_a_short_row_takes_what_waits_least_often():
    best = predicted(config_of(2**11))
    assert settled(config_of(2**11))[0] in ("all_gather", "ulysses")
    assert best["ring"].links > 1.5 * max(best["all_gather"].links, best["ulysses"].links)


def test_both_ways_round_a_torus_halve_the_time_of_links():
    short = config_of(2**13, layout="zigzag")
    on_gpu, on_tpu = predicted(short), predicted(short, target=V5P)
    assert on_tpu["bidirectional_ring"].links < 0.6 * on_tpu["ring"].links
    assert on_gpu["bidirectional_ring"].links > 0.8 * on_gpu["ring"].links


def test_a_window_makes_long_rows_local():
    model = dataclasses.replace(MODEL, mask="causal & window(1024)")
    best = predicted(config_of(2**17, "ring", "contiguous", model)), predicted(config_of(2**17, "ring", "contiguous"))
    assert best[0]["ring"].seconds < 0.1 * best[1]["ring"].seconds


def test_a_mask_that_looks_ahead_counts_its_own_pairs():
    model = dataclasses.replace(MODEL, mask="full")
    causal, full = (predicted(config_of(2**14, "ulysses", "zigzag", one))["ulysses"] for one in (MODEL, model))
    assert full.computing == pytest.approx(2 * causal.computing, rel=0.05)


def test_what_does_not_work_is_said(capsys):
    model = dataclasses.replace(MODEL, heads=4, kv_heads=4)
    settled(config_of(2**17, model=model))
    assert "ulysses: attention.strategy='ulysses' does not work here: it deals" in capsys.readouterr().out
    settled(config_of(2**19, layout="zigzag"))
    settled(config_of(2**20, layout="zigzag"))
    few, many = capsys.readouterr().out.split("1,048,576 tokens")
    assert "all_gather, zigzag" in few and "all_gather: holds 12.0 GiB of keys and their gradients" in many


def test_the_reason_of_a_choice():
    """The fastest is chosen, or a simpler one that is about as fast; the reason says by how much it is slower."""
    candidate = lambda seconds, strategy, layout="zigzag": auto.Candidate(strategy, layout, seconds, 0.0, 0.0)
    ulysses = candidate(1.0, "ulysses")
    assert auto._choose([candidate(2.0, "ring"), ulysses]) == (ulysses, "the fastest")
    chosen, why = auto._choose([candidate(1.004, "ring"), candidate(1.0, "ulysses", "striped(4)")])
    assert chosen == candidate(1.004, "ring")
    assert why == (
        "1 s: slower than ulysses, striped(4), by 0.40%; within 1% the simplest is taken, first of layout, "
        "then of strategy"
    )


def test_all_that_is_asked_for_is_settled_and_nothing_else():
    given = config_of(2**14, "usp", "zigzag", context=4, context_outer=2)
    assert auto.settle(given, H100, None) is given
    assert settled(config_of(2**14, "auto", "striped(4)"))[1] == "striped(4)"
    assert settled(config_of(2**14, "ulysses", "auto"))[0] == "ulysses"
    assert settled(config_of(2**14, context=1)) == ("ring", "contiguous")
    assert settled(config_of(2**15, context=4, context_outer=2), "web") == settled(
        config_of(2**15, context=4, context_outer=2), "web"
    )


def test_bad_input():
    streamed = dataclasses.replace(config_of(2**14), memory=MemoryConfig(backward="streamed", chunk_tokens=2**12))
    with pytest.raises(UserError, match="attention.strategy='auto' weighs steps of memory.backward='autodiff'"):
        settled(streamed)
    with pytest.raises(UserError, match="'auto' is not known"):
        auto.checks.check_settings(config_of(2**14, "auto", "zigzag"))
    with pytest.raises(UserError, match="layout='zigzak'"):
        settled(config_of(2**14, "auto", "zigzak"))


def test_the_rates_of_devices_that_are_here():
    mesh = jax.make_mesh((2,), ("x",))
    here = targets.of_mesh(mesh)
    assert (here.chip, here.platform, len(here.devices)) == (None, "cpu", 2)


@pytest.mark.slow
def test_a_run_settles_and_says_why_and_goes_on_so(tiny, tmp_path):
    asked = *cut(context=4), "attention.strategy=auto", "attention.layout=auto"
    output = ended_well(tiny.train(tmp_path, *asked))
    chosen = json.loads((tmp_path / "config.json").read_text())["attention"]
    assert "predicted by the rates of h100 (seconds of computing," in output
    assert f"taken: {chosen['strategy']}, {chosen['layout']}, " in output
    assert STRATEGIES[chosen["strategy"]].waits is not None and chosen["layout"] != "auto"
    assert ended_well(tiny.train(tmp_path, *asked)).count("predicted by the rates") == 1
