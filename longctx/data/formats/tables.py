"""Rows of tables, each a record: Parquet, and Arrow's files and streams (Feather, folders of save_to_disk), by pyarrow.

Only the columns that the form of records reads are taken, or where there is none those of ids, a few rows at a time.
"""

from collections.abc import Iterator
from typing import Any

from longctx.data.formats import tokens
from longctx.data.formats.format import Metered, Part, Reading, needed, unusable
from longctx.data.records.record import Bad

ROWS = 256  # that are in memory at a time; of Arrow's formats at least one of its batches is
IPC_FILE = b"ARROW1"  # what a file begins with, and a stream does not


def parquet(file: Metered, reading: Reading) -> Iterator[Part]:
    """The rows of a Parquet file."""
    module = needed("pyarrow.parquet", "pyarrow", file.path)

    def batches() -> Iterator[Any]:
        table = module.ParquetFile(file.raw, pre_buffer=False, buffer_size=1 << 20)
        yield from table.iter_batches(ROWS, columns=_columns(table.schema_arrow.names, file.path, reading))

    return _parts(batches(), file, reading, "a whole Parquet file")


def arrow(file: Metered, reading: Reading) -> Iterator[Part]:
    """The rows of an Arrow file (Feather is one) or of an Arrow stream."""
    ipc = needed("pyarrow.ipc", "pyarrow", file.path)

    def batches() -> Iterator[Any]:
        is_file = file.raw.read(len(IPC_FILE)) == IPC_FILE
        open_ = ipc.open_file if is_file else ipc.open_stream
        file.raw.seek(0)
        names = open_(file.raw).schema.names
        fields = [names.index(name) for name in _columns(names, file.path, reading)]
        file.raw.seek(0)
        table = open_(file.raw, options=ipc.IpcReadOptions(included_fields=fields))
        for batch in map(table.get_batch, range(table.num_record_batches)) if is_file else table:
            yield from (batch.slice(at, ROWS) for at in range(0, batch.num_rows, ROWS))

    return _parts(batches(), file, reading, "a whole Arrow file or stream")


def _columns(names: list[str], path: str, reading: Reading) -> list[str]:
    """The columns that the form reads, or those of ids. Raises UserError where none is there: some may be missing."""
    found = [name for name in reading.form.fields if name in names]
    if tokens.are_in(names, reading):
        found = [name for name in (tokens.IDS, tokens.MASK) if name in names]
    if not found:
        wanted = " or ".join(map(repr, (*reading.form.fields, tokens.IDS)))
        raise unusable(path, f"has no column {wanted}; the columns there: {', '.join(map(repr, names)) or 'none'}")
    return found


def _parts(batches: Iterator[Any], file: Metered, reading: Reading, what: str) -> Iterator[Part]:
    """The document of each row. A file that breaks off is bad from there on."""
    import pyarrow

    row = 0
    try:
        for batch in batches:
            file.take(batch.nbytes)
            columns = dict(zip(batch.schema.names, batch.columns, strict=True))
            for i in range(batch.num_rows):
                row += 1
                yield _part(row, columns, i, file.path, reading)
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:  # of the system; pyarrow's own have no number
            raise
        yield Part(0, bad=f"is not {what} ({' '.join(str(error).split())[:200]})")


def _part(row: int, columns: dict[str, Any], i: int, path: str, reading: Reading) -> Part:
    try:
        record = {name: column[i].as_py() for name, column in columns.items()}
        if tokens.are_in(record, reading):
            return tokens.of_record(row, record, f"row {row} of {path!r}", reading)
        return Part(row, reading.form.content(record))
    except UnicodeDecodeError as error:
        return Part(row, bad=f"has text that is not UTF-8 at byte {error.start}")
    except Bad as why:
        return Part(row, bad=str(why))
