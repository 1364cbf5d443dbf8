"""ArrayRecord: texts and records side by side, and broken files."""

import json

import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from tests.longctx.data.formats.helpers import message, note, texts


def write(path, records, options="group_size:1"):
    writer = ArrayRecordWriter(str(path), options)
    for record in records:
        writer.write(record)
    writer.close()
    return path


@pytest.mark.parametrize("options", ["group_size:1", "group_size:7", "group_size:200,zstd:9"])
def test_more_records_than_are_read_at_a_time(tmp_path, options):
    found = texts(write(tmp_path / "a.array_record", [b"record %d" % i for i in range(150)], options))
    assert found == {f"a.array_record:{i + 1}": b"record %d" % i for i in range(150)}


def test_what_is_an_object_is_a_record(tmp_path):
    records = [
        json.dumps({"body": "a"}).encode(),
        b'{"body"',
        b'["body"]',
        b"5",
        b'{"x": 1}',
        b'{"body": 1, "body": 2}',
        b"",
    ]
    path = write(tmp_path / "a.arrayrecord", records)
    expected = {"a.arrayrecord:1": b"a", **{f"a.arrayrecord:{i}": records[i - 1] for i in (2, 3, 4)}}
    assert texts(path, bad="skip", text_field="body") == expected
    said = note(path, text_field="body")
    assert "1 empty document, 2 bad documents (record 5 of" in said and "the key 'body' twice" in said
    assert f"record 5 of {str(path)!r} has no text in data.text_field='body'" in message(path, text_field="body")


def test_a_record_that_is_not_utf8(tmp_path):
    path = write(tmp_path / "a.array_record", [b"caf\xe9", b"good"])
    assert texts(path)["a.array_record:1"] == b"caf\xe9"
    assert f"record 1 of {str(path)!r} is not UTF-8 at byte 3" in message(path, tokenizer="tokenizer.json")


@pytest.mark.parametrize(
    "damage",
    [lambda d: d[:-100], lambda d: b"none" * 999, lambda d: b"", lambda d: d[:66] + b"\xff" * 90 + d[156:]],
    ids=["cut", "none", "empty", "damaged"],
)
def test_broken_files(tmp_path, damage):
    path = write(tmp_path / "a.array_record", [b"record %d " % i * 50 for i in range(10)])
    path.write_bytes(damage(path.read_bytes()))
    (tmp_path / "b.txt").write_text("sound")
    assert f"{str(path)!r} is not a whole ArrayRecord file (" in message(path)
    assert texts(tmp_path, bad="skip") == {"b.txt": b"sound"} and "1 bad document" in note(tmp_path)
