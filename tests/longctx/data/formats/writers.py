"""Files of the same texts in every format of records, written by the formats' public libraries or by hand."""

import gzip
import json
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import zstandard
from array_record.python.array_record_module import ArrayRecordWriter

MEGATRON_CODES = {"u1": 1, "i1": 2, "i2": 3, "i4": 4, "i8": 5, "u2": 8}


def lines(texts) -> bytes:
    return "".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(texts)).encode()


def table(texts) -> pa.Table:
    return pa.table({"id": list(range(len(texts))), "text": pa.array(texts, pa.string())})


def json_list(path, texts):
    path.write_text(json.dumps([{"id": i, "text": text} for i, text in enumerate(texts)], indent=1))


def arrow_stream(path, texts):
    with pa.ipc.new_stream(path, table(texts).schema) as writer:
        writer.write_table(table(texts), max_chunksize=3)


def arrow_file(path, texts):
    with pa.ipc.new_file(path, table(texts).schema) as writer:
        writer.write_table(table(texts), max_chunksize=3)


def array_record(path, texts):
    """Every other record a text as it is, where that is no object in JSON."""
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for i, text in enumerate(texts):
        bare = i % 2 and not text.lstrip().startswith("{")
        writer.write(text.encode() if bare else json.dumps({"text": text}).encode())
    writer.close()


def mds(path, columns: dict[str, str], samples: list[list[bytes]], sizes=None, compressed="", per_shard=4):
    """The index.json at `path` and its shards. columns: encoding of each; samples: the bytes of each column."""
    sizes, shards = sizes or [None] * len(columns), []
    said = {"column_names": [*columns], "column_encodings": [*columns.values()], "column_sizes": sizes}
    for number, start in enumerate(range(0, len(samples), per_shard)):
        bodies = []
        for cells in samples[start : start + per_shard]:
            free = [len(cell) for cell, size in zip(cells, sizes, strict=True) if size is None]
            bodies.append(np.array(free, "<u4").tobytes() + b"".join(cells))
        head, first = json.dumps(said).encode(), 4 * (len(bodies) + 2)
        offsets = first + len(head) + np.cumsum([0, *map(len, bodies)])
        data = np.array([len(bodies)], "<u4").tobytes() + offsets.astype("<u4").tobytes() + head + b"".join(bodies)
        raw, zipped = f"shard.{number:05d}.mds", None
        if compressed:
            zipped = {"basename": f"{raw}.{compressed}", "bytes": 0, "hashes": {}}
            compress = {"zstd": zstandard.compress, "gz": gzip.compress, "br": bytes}[compressed]
            (path.parent / zipped["basename"]).write_bytes(compress(data))
        else:
            (path.parent / raw).write_bytes(data)
        raw = {"basename": raw, "bytes": len(data), "hashes": {}}
        kind = {"version": 2, "format": "mds", "compression": compressed or None, "samples": len(bodies)}
        shards.append({**said, **kind, "raw_data": raw, "zip_data": zipped})
    path.write_text(json.dumps({"version": 2, "shards": shards}))


def mds_of_texts(compressed):
    def write(path, texts):
        samples = [[np.int64(i).tobytes(), text.encode()] for i, text in enumerate(texts)]
        mds(path, {"id": "int", "text": "str"}, samples, [8, None], compressed)

    return write


def megatron(folder, documents, dtype="u2", backwards=False, name="a"):
    """The .idx of a pair. documents: the sequences of each."""
    sequences = [sequence for document in documents for sequence in document]
    lengths = np.array([*map(len, sequences)], "<i4")
    if backwards:  # sequences need not lie in their order
        pointers = (np.cumsum(lengths[::-1]) - lengths[::-1])[::-1]
        flat = [token for sequence in sequences[::-1] for token in sequence]
    else:
        pointers, flat = np.cumsum(lengths) - lengths, [token for sequence in sequences for token in sequence]
    entries = np.cumsum([0, *map(len, documents)])
    head = b"MMIDIDX\x00\x00" + np.array([1], "<u8").tobytes() + bytes([MEGATRON_CODES[dtype]])
    head += np.array([len(sequences), len(entries)], "<u8").tobytes()
    pointers = pointers.astype("<i8") * np.dtype(dtype).itemsize
    (folder / f"{name}.idx").write_bytes(
        head + lengths.tobytes() + pointers.tobytes() + entries.astype("<i8").tobytes()
    )
    (folder / f"{name}.bin").write_bytes(np.array(flat, f"<{dtype}").tobytes())
    return folder / f"{name}.idx"


def data(make):
    return lambda path, texts: path.write_bytes(make(texts))


# {name of a file: (its path, texts) -> None}
WRITERS = {
    "a.jsonl": data(lines),
    "a.ndjson": data(lines),
    "a.jsonl.gz": data(lambda texts: gzip.compress(lines(texts))),
    "a.jsonl.zst": data(lambda texts: zstandard.compress(lines(texts))),
    "a.json": json_list,
    "lines.json": data(lines),
    "lines.json.zst": data(lambda texts: zstandard.compress(lines(texts))),
    "a.parquet": lambda path, texts: pa.parquet.write_table(table(texts), path, row_group_size=5),
    "stream.arrow": arrow_stream,
    "file.arrow": arrow_file,
    "a.feather": lambda path, texts: pa.feather.write_feather(table(texts), str(path)),
    "a.array_record": array_record,
    "a.arrayrecord": array_record,
    "index.json": mds_of_texts(""),
    "zstd/index.json": mds_of_texts("zstd"),
    "gz/index.json": mds_of_texts("gz"),
}


def write(folder, name: str, texts) -> pathlib.Path:
    """The file of a name in WRITERS."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    WRITERS[name](path, texts)
    return path
