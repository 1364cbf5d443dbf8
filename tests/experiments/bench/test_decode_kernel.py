"""The decode kernel as the real TPU compiler takes it: its memory, what it copies, and how long it computes."""

import pytest

from experiments.bench import decode_kernel
from experiments.bench.harness import options
from pallas_kernels.tpu_chips import CHIPS
from tests.helpers import NEEDS_TPU_COMPILER, nightly, slow


@NEEDS_TPU_COMPILER
@pytest.mark.parametrize(
    "chip, model",
    [
        *slow(("v5e", "llama3_8b")),
        # one group of SmolLM2's three key heads has one of the two cores of v5p, which then computes for longer
        *nightly(("v5e", "smollm2_135m"), ("v5p", "llama3_8b"), ("v6e", "llama3_8b"), ("v6e", "smollm2_135m")),
    ],
)
def test_keys_and_values_are_read_once_while_it_computes(chip, model):
    results = short, long = decode_kernel.measure(chip, model, [8192, 131072])
    assert (short.block, short.heads) == (long.block, long.heads) and long.steps == 16 * short.steps
    for r in results:
        assert r.keys_mb <= r.mb < 1.02 * r.keys_mb  # positions and segments are the rest
        assert r.computed < r.arriving and r.vmem_mb < CHIPS[chip].vmem
    assert [t["result"] for t in decode_kernel.check(results)] == ["ok", "ok"]


@pytest.mark.parametrize(
    "option, words", [("--chip=v9", "Known: tpu7x, v4"), ("--model=gpt", "llama3_8b"), ("--lengths=0", "above 0")]
)
def test_bad_options_are_one_line(option, words, capsys):
    assert options.command(decode_kernel.main, [option]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
