"""Sequences of nucleotides: names, gaps of unknown letters, and what is no sequence."""

import gzip

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from longctx.config import DataConfig
from longctx.data.formats import fasta
from longctx.data.formats.format import Metered, Reading
from longctx.data.records.api import form_of
from tests.longctx.data.formats.helpers import message, note, texts

GAP = b"N" * fasta.UNKNOWN


def write(tmp_path, data: bytes, name="a.fa"):
    path = tmp_path / name
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", ["a.fa", "a.fasta", "a.fna", "a.FA", "a.fa.gz", "a.fna.zst"])
def test_headers_are_names_and_not_text(tmp_path, name):
    data = b"; a comment\r\n>chr1 of a mouse\r\nacgt\r\nNNAC\r\n\r\n>\nGATTACA\n>chr2\nacguRYKMSWBDHV-"
    compress = {".gz": gzip.compress, "zst": zstandard.compress}.get(name[-3:], bytes)
    found = texts(write(tmp_path, compress(data), name))
    assert found == {f"{name}:chr1": b"ACGTNNAC", f"{name}:2": b"GATTACA", f"{name}:chr2": b"ACGURYKMSWBDHV-"}


def test_long_runs_of_n_part_documents_which_say_where_they_lie(tmp_path):
    sequence = b"ACGT" + GAP.lower() + b"AN" + GAP[1:] + GAP[:-1] + b"T" + GAP[1:] + b"G" + GAP
    lines = b"\n".join(sequence[i : i + 60] for i in range(0, len(sequence), 60))
    found = texts(write(tmp_path, b">s\n" + lines + b"\n>all\n" + GAP + b"\n>end\n" + GAP + b"C\n>none\n"))
    spans = {name: text for name, text in found.items() if ":s:" in name}
    assert [*spans.values()] == [b"ACGT", b"A", b"T" + GAP[1:] + b"G"]
    for name, text in spans.items():
        first, last = map(int, name.rpartition(":")[2].split("-"))
        assert sequence[first - 1 : last] == text
    assert found[f"a.fa:end:{fasta.UNKNOWN + 1}-{fasta.UNKNOWN + 1}"] == b"C"
    assert "2 empty documents" in note(tmp_path)


@pytest.mark.parametrize(
    "data, reason",
    [
        (b">s\nACGT\nACJT\nEE\n>t\nACGT\n", "line 3 of {} has 'J' in the sequence 's', which is no IUPAC"),
        (b">p\nMKVL*\n>t\nACGT\n", "line 2 of {} has 'L' in the sequence 'p'"),
        (b"ACGT\nAC\n>t\nACGT\n", "line 1 of {} comes before the first header"),
        (b">s\nAC GT\n>t\nACGT\n", "line 2 of {} has ' ' in"),
    ],
)
def test_bad_sequences(tmp_path, data, reason):
    path = write(tmp_path, data)
    assert reason.format(repr(str(path))) in message(path)
    assert texts(path, bad="skip") == {"a.fa:t": b"ACGT"}
    assert "1 bad document" in note(path)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.sampled_from([b"ACGT", b"N", GAP, b"RY", b"\n"]), max_size=12), max_size=4))
def test_pieces_are_what_lies_between_gaps(pieces):
    import io

    data = b"".join(b">%d\n%s\n" % (i, b"".join(some)) for i, some in enumerate(pieces))
    file = Metered(io.BytesIO(data), lambda size: None, "a.fa")
    found = [part for part in fasta.sequences(file, Reading(form_of(DataConfig()), "", lambda: None))]
    assert not any(part.bad for part in found)
    for i, some in enumerate(pieces):
        sequence = b"".join(some).replace(b"\n", b"")
        own = [part.content.text for part in found if part.name.split(":")[0] == str(i)]
        assert all(GAP not in text for text in own)
        known = [piece for piece in sequence.replace(GAP, b"|").split(b"|") if piece.strip(b"N")]
        assert [text.strip(b"N") for text in own if text.strip(b"N")] == [piece.strip(b"N") for piece in known]
