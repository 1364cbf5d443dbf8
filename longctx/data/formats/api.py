"""The formats of files by extension, and the documents in a file. Free of jax and grain."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePath

from longctx.data import remote
from longctx.data.formats import array_records, fasta, json_records, mds, megatron, opening, tables, text, tokens
from longctx.data.formats.format import Format, Metered, Part, Reading
from longctx.data.span import Span
from longctx.errors import UserError

TEXT = Format(text.whole)
# one text each; .ipynb is not among them: it is JSON, most of which nobody wrote
TEXTS = """
    .txt .md .rst .org .tex .html .css .py .c .h .cc .cpp .hpp .cu .java .scala .kt .js .ts .tsx .go .rs .swift .rb .php
    .pl .lua .jl .r .hs .ml .sh .sql .yaml .yml .toml""".split()
LINES = Format(json_records.lines)
ARROW = Format(tables.arrow, "row", streamed=False, whole=False)
FASTA = Format(fasta.sequences)
ARRAY_RECORD = Format(array_records.records, "record", streamed=False)

FORMATS: Mapping[str, Format] = {
    **dict.fromkeys(TEXTS, TEXT),
    ".jsonl": LINES,
    ".ndjson": LINES,
    ".json": Format(mds.read, "item"),
    ".parquet": Format(tables.parquet, "row", streamed=False, whole=False),
    ".arrow": ARROW,
    ".feather": ARROW,
    ".fa": FASTA,
    ".fasta": FASTA,
    ".fna": FASTA,
    ".array_record": ARRAY_RECORD,
    ".arrayrecord": ARRAY_RECORD,
    ".npy": Format(tokens.npy, "document", streamed=False),
    ".bin": Format(tokens.raw, "document", streamed=False),
    ".idx": Format(megatron.documents, "document", streamed=False),
    ".mds": Format(mds.alone, streamed=False),
}
KNOWN = f"Known are {' '.join(FORMATS)}; the texts, JSON and FASTA also with .gz or .zst."


def extension(name: str) -> str:
    """The extension in lower case; of notes.txt.gz it is ".txt", of notes.gz ".gz", without any ""."""
    name = PurePath(name).name.lower()
    return PurePath(opening.without_kind(name)).suffix or PurePath(name).suffix


def format_of(name: str) -> Format | None:
    """The format of a file; None for one that is not known, or not known compressed."""
    found = FORMATS.get(extension(name))
    return found if found is None or found.streamed or not opening.kind(name) else None


def cuts(name: str) -> bool:
    """Whether a file may be read in parts, see longctx.data.span: it has lines, and is not compressed."""
    return FORMATS.get(extension(name)) is LINES and not opening.kind(name) and not remote.is_address(name)


def parts(path: str, reading: Reading, take: Callable[[int], None], span: Span | None = None) -> Iterator[Part]:
    """The documents of a file that has a format, in their order, decompressed if its name says so.

    take: see Metered. span: a part of a file of lines that is not compressed, see longctx.data.span. Raises UserError
    for a file that the system does not let be read, and as its reader does.
    """
    found = format_of(path)
    assert found, path
    try:
        with opening.opened(path) as file:
            whole = opening.decompressed(file, path) if span is None else opening.part(file, span)
            first = span.first_line if span else 1
            yield from found.read(Metered(whole, take, path, first), reading)
    except opening.BROKEN as error:
        yield Part(0, bad=f"is not a whole {opening.kind(path)} file ({error})")
    except OSError as error:
        raise UserError(f"data.path: {path!r} cannot be read: {error.strerror or error}.") from error
