"""experiments.bench.extrapolate in miniature: the same targets at every length, its table and picture."""

import json

import numpy as np
import pytest

from experiments.bench import extrapolate
from longctx.data.document import Document
from longctx.data.tokenizers import load
from longctx.errors import UserError
from longctx.evals import batches


def test_cuts_end_at_the_same_target_whatever_is_read():
    tokenizer, rng = load("bytes"), np.random.default_rng(0)
    documents = [Document(f"{i}.txt", rng.integers(97, 123, 60 * i, dtype=np.uint8).tobytes()) for i in range(1, 9)]
    cuts = extrapolate.ends(documents, tokenizer, 200, 3)
    assert len(cuts) == 3 and all(200 <= end <= document.targets for document, end in cuts)
    for document, end in cuts:
        short, long = (batches.last_tokens(document.ids, end, length, tokenizer.bos) for length in (50, 200))
        np.testing.assert_array_equal(short.targets, long.targets[-50:])
    with pytest.raises(UserError, match="no held-out document has 1000 tokens"):
        extrapolate.ends(documents, tokenizer, 1000, 3)


def test_a_name_may_hold_a_window():
    config = extrapolate.settings("rope, window 64", 2, 32)
    assert (config.model.position, config.model.mask, config.seed) == ("rope", "causal & window(64)", 2)
    assert extrapolate.settings("t5", 0, 32).model.mask == "causal"


@pytest.mark.slow
def test_every_position_and_seed_is_trained_and_read(tmp_path, capsys):
    out, picture = tmp_path / "found.json", tmp_path / "found.png"
    given = ["--positions=alibi", "--seeds=2", "--steps=2", "--documents=2"]
    assert extrapolate.main([*given, f"--out={out}", f"--picture={picture}"]) == 0
    records = json.loads(out.read_text())["records"]
    assert [(r["position"], r["seed"]) for r in records] == [("alibi", 0), ("alibi", 1)]
    assert records[0]["lengths"] == [256, 512, 1024, 2048] and records[0]["loss"] != records[1]["loss"]
    assert all(4 < loss < 7 for r in records for loss in r["loss"])  # two steps from chance, 5.6 nats a byte
    assert picture.stat().st_size > 10_000 and "alibi" in capsys.readouterr().out.splitlines()[-1]
