"""Laws that every entry of data.generated has to follow, with any seed and length."""

import concurrent.futures

import hypothesis
import numpy as np
import pytest
import tokenizers as hf
from hypothesis import strategies as st

from longctx.data import tokenizers
from longctx.data.document import Document
from longctx.data.generated import api
from longctx.data.generated.rows import GeneratedRows
from longctx.data.generated.task import ADDED
from longctx.data.generated.writing import coined
from tests.longctx.data import tiny_tokenizers

BYTES = tokenizers.ByteTokenizer()
CUT = ("passkey", "copying")  # tasks whose documents may end anywhere
LONGEST = 3000


class Documents(list):
    """Documents that a test which fails does not print."""

    def __repr__(self) -> str:
        return f"{len(self)} documents"


@pytest.fixture(scope="module")
def documents():
    """Documents of 400 to 12,000 bytes in which no three words come twice, with characters of more than a byte."""
    rng = np.random.default_rng(0)
    made = Documents()
    for number, count in enumerate((60, 200, 700, 1500)):
        words = [word + "ä" * (i % 7 == 0) for i, word in enumerate(coined(rng, count))]
        ends = rng.choice([" ", " ", " ", "\n", "\n\n"], count)
        made.append(Document(str(number), "".join(map("".join, zip(words, ends, strict=True))).encode()))
    return made


@pytest.fixture(scope="module")
def bpe(documents, tmp_path_factory):
    """A byte-level BPE that takes two to three bytes a token."""
    tokenizer = tiny_tokenizers.byte_level("<|endoftext|>")
    texts = [document.text.decode() for document in documents]
    texts += ["The pass key is 123. The grass is green. after 12 comes 13\n step 5: write 3, carry 1\n"]
    alphabet = hf.pre_tokenizers.ByteLevel.alphabet()
    trainer = hf.trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizers.load(tiny_tokenizers.write(tmp_path_factory.mktemp("bpe"), tokenizer))


def task(name):
    return api.GENERATED[name](0.1)


def wrong(kind, written, documents, most=4):
    """(what follows, what solve says) of the answers where they differ: of the first, the last and some between."""
    at = np.unique(np.linspace(0, len(written.answers) - 1, most).astype(int)) if written.answers else ()
    found = []
    for first, end in (written.answers[i] for i in at):
        said, right = written.text[first:end].decode(), kind.solve(written.text[:first].decode(), documents)
        found += [(said, right)] if said != right else []
    return found


every = pytest.mark.parametrize("name", api.GENERATED)
drawn = hypothesis.settings(max_examples=8, deadline=None)


@every
@drawn
@hypothesis.given(seed=st.integers(0, 2**32), share=st.floats(0, 1))
def test_a_text_has_its_size_and_its_solver_is_right(documents, name, seed, share):
    kind = task(name)
    _, most = kind.lengths(BYTES)
    size = int(kind.smallest * ((most or LONGEST) / kind.smallest) ** share)
    written = kind.write(np.random.default_rng(seed), size, documents)
    assert size - max(kind.smallest, size // 8) <= len(written.text) <= size
    assert written.answers or name == "copying"
    assert wrong(kind, written, documents) == []
    inside = [byte for answer in written.answers for byte in answer]
    assert inside == sorted(inside) and inside[-1:] <= [len(written.text)]


@pytest.mark.slow
@every
def test_solvers_are_right_in_many_texts(documents, name):
    kind = task(name)
    for seed in range(300):
        rng = np.random.default_rng(seed)
        size = int(rng.integers(kind.smallest, (kind.lengths(BYTES)[1] or LONGEST) + 1))
        written = kind.write(rng, size, documents)
        assert size - max(kind.smallest, size // 8) <= len(written.text) <= size
        assert wrong(kind, written, documents) == []


@every
@drawn
@hypothesis.given(seed=st.integers(0, 2**32), share=st.floats(0, 1))
def test_a_document_has_nearly_its_tokens(documents, bpe, name, seed, share):
    kind = task(name)
    for tokenizer in (BYTES, bpe):
        fewest, most = kind.lengths(tokenizer)
        tokens = int(fewest * ((most or LONGEST) / fewest) ** share)
        made, again = (kind.document(np.random.default_rng(seed), tokenizer, tokens, documents) for _ in range(2))
        np.testing.assert_array_equal(made.ids, again.ids)
        np.testing.assert_array_equal(made.counts, again.counts)
        assert len(made.ids) <= tokens
        if name != "passkey" or tokenizer is BYTES:  # it takes the bytes per token of its own filler for all text
            assert len(made.ids) >= tokens - ADDED - max(kind.smallest, tokens // 8)
        text = made.written.text.decode()
        decoded = tokenizer.decode(made.ids)
        assert text.startswith(decoded.rstrip("\ufffd")) if name in CUT else text == decoded
        assert len(made.counts) == len(made.ids) == len(made.spans)
        assert wrong(kind, made.written, documents, most=2) == []


@every
def test_a_long_document_is_nearly_full(documents, bpe, name):
    kind = task(name)
    _, most = kind.lengths(bpe)
    tokens = most or 12_000
    made = kind.document(np.random.default_rng(0), bpe, tokens, documents)
    assert 0.9 * tokens <= len(made.ids) <= tokens and made.counts.any()
    assert wrong(kind, made.written, documents, most=3) == []


@every
def test_the_seed_decides(documents, name):
    texts = {task(name).write(np.random.default_rng(seed), 500, documents).text for seed in range(4)}
    assert len(texts) == 4


@every
def test_counts_are_the_tokens_of_the_answers(documents, name):
    made = task(name).document(np.random.default_rng(1), BYTES, 500, documents)
    said = b"".join(made.written.text[first:end] for first, end in made.written.answers)
    assert made.ids[made.counts].astype(np.uint8).tobytes() == said[: made.counts.sum()] != b""


@every
def test_text_of_any_kind_will_do(name):
    """Documents of a byte, of a character again and again, without a space, and of bytes that are no text."""
    for text in (b"a", b"\n" * 3000, "語".encode() * 3000, b"\xff\x00" * 2000):
        for size in (0, 3, 2000):
            kind = task(name)
            written = kind.write(np.random.default_rng(size), kind.smallest + size, [Document("x", text)])
            assert len(written.text) <= kind.smallest + size and written.text.decode()


@every
def test_threads_make_the_same_documents(documents, bpe, name):
    make = lambda seed: task(name).document(np.random.default_rng(seed), bpe, 500, documents).ids.tolist()
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        assert [*threads.map(make, range(12))] == [*map(make, range(12))]


@every
def test_answers_alone_can_count(documents, name):
    kind, seed = task(name), (3, 0)
    rows = {alone: GeneratedRows(kind, BYTES, documents, 2048, 4, seed, alone) for alone in (False, True)}
    every_token, answers = (rows[alone].gather(np.arange(4)) for alone in (False, True))
    for array in ("tokens", "targets", "positions", "segments"):
        np.testing.assert_array_equal(every_token[array], answers[array])
    assert (every_token["weights"] == (every_token["segments"] > 0)).all()
    assert rows[False].fingerprint != rows[True].fingerprint
    made = [one for row in range(4) for one in rows[True]._documents(row)]
    ended = sum(bool(one.counts[-1]) for one in made)
    assert answers["weights"].sum() == sum(one.counts.sum() for one in made) + ended > 0
    counted = answers["targets"][answers["weights"] > 0]
    ids = [np.append(one.ids, BYTES.eos)[np.append(one.counts, one.counts[-1])] for one in made]
    np.testing.assert_array_equal(counted, np.concatenate(ids))
