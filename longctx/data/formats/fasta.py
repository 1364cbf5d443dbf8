"""Sequences of nucleotides in FASTA. Free of jax and grain.

The parser is our own: pyfaidx reads at random places of files that are not compressed, or compressed by blocks, and
writes an index beside them; here a file is read once, from its start to its end, whatever compresses it.
"""

import re
from collections.abc import Iterator

from longctx.data.formats.format import Metered, Part, Reading
from longctx.data.records.record import Content

LETTERS = b"ACGTURYKMSWBDHVN-"  # the nucleotide codes of IUPAC, and a gap
UNKNOWN = 100  # N in a row that part documents: assemblers write at least as many for a gap that they know nothing of

_Lines = list[tuple[int, bytes]]


def sequences(file: Metered, reading: Reading) -> Iterator[Part]:
    """The sequences of a file, in capitals and without line ends.

    A document is what lies between UNKNOWN or more N, and called "file:sequence", or "file:sequence:first-last" with
    the places of its letters, from 1 on, where it is not the whole sequence. A header's first word names the sequence.
    """
    for number, name, lines in _sequences(file):
        yield from _parts(number, name, lines)


def _sequences(file: Metered) -> Iterator[tuple[int, str, _Lines]]:
    """(number of the header's line, name, lines with their numbers) of each sequence; 0 and "" where no header is."""
    start, name, lines, count = 0, "", [], 0
    for number, line in enumerate(file.lines(), start=1):
        line = line.strip()
        if line.startswith(b">"):
            if start or lines:
                yield start, name, lines
            words, count = line[1:].split(), count + 1
            start, name, lines = number, words[0].decode("utf-8", "replace") if words else str(count), []
        elif line and not line.startswith(b";"):  # a comment, in old files
            lines.append((number, line.upper()))
    if start or lines:
        yield start, name, lines


def _parts(number: int, name: str, lines: _Lines) -> Iterator[Part]:
    """The documents of a sequence."""
    if not number:
        yield Part(lines[0][0], bad="comes before the first header, which begins with '>'")
        return
    for at, line in lines:
        if others := line.translate(None, LETTERS):
            yield Part(at, bad=f"has {chr(others[0])!r} in the sequence {name!r}, which is no IUPAC nucleotide code")
            return
    sequence = b"".join(line for _, line in lines)
    found = [(match.start(), match.end()) for match in re.finditer(rb"N{%d,}" % UNKNOWN, sequence)]
    starts, ends = [0, *(end for _, end in found)], [*(start for start, _ in found), len(sequence)]
    known = [(start, end) for start, end in zip(starts, ends, strict=True) if start < end]
    if not known:
        yield Part(number, name=name)
    for start, end in known:
        whole = end - start == len(sequence)
        yield Part(number, Content(sequence[start:end]), name=name if whole else f"{name}:{start + 1}-{end}")
