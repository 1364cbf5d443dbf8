"""Records of ArrayRecord files, by the package that grain brings."""

import contextlib
from collections.abc import Iterator

from longctx.data import remote
from longctx.data.formats.format import Metered, Part, Reading, needed
from longctx.data.formats.json_records import NotJson, decoded
from longctx.data.records.record import Bad, Content
from longctx.errors import UserError

RECORDS = 64  # that are in memory at a time
IN_TURN = "readahead_buffer_size:0,max_parallelism:0"  # no threads that read further than is taken


def records(file: Metered, reading: Reading) -> Iterator[Part]:
    """Each record, a text, or a record of the form where it is an object in JSON."""
    if remote.is_address(file.path):
        raise UserError(f"data.path: {file.path!r} is an ArrayRecord, which is read from this machine only; copy it.")
    module = needed("array_record.python.array_record_module", "array_record", file.path, "array_record")
    reader = module.ArrayRecordReader(file.path, IN_TURN)
    try:
        if not reader.ok():
            reader.close()  # raises the reason
        for start in range(0, reader.num_records(), RECORDS):
            found = reader.read(start, min(start + RECORDS, reader.num_records()))
            for number, record in enumerate(found, start + 1):
                file.take(len(record))
                yield _part(number, record, reading)
    except (RuntimeError, IndexError) as error:  # what the package raises
        yield Part(0, bad=f"is not a whole ArrayRecord file ({str(error).split(';')[0]})")
    finally:
        with contextlib.suppress(RuntimeError):
            reader.close()


def _part(number: int, record: bytes, reading: Reading) -> Part:
    """The document of a record."""
    try:
        value = decoded(record) if record.lstrip().startswith(b"{") else None
    except NotJson:
        value = None
    except Bad as why:
        return Part(number, bad=str(why))
    if not isinstance(value, dict):
        return Part(number, Content(record))
    try:
        return Part(number, reading.form.content(value))
    except Bad as why:
        return Part(number, bad=str(why))
