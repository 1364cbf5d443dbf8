"""Files of JSON that hold one value or many."""

import json

import pytest

from longctx.data.formats import json_records
from tests.longctx.data.formats.helpers import load, message, note, texts

RECORD = {"text": "a text", "n": 10**20}


def write(tmp_path, data, name="a.json"):
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


@pytest.mark.parametrize("indent", [None, 2])
def test_an_object_alone_is_one_document_without_a_number(tmp_path, indent):
    assert texts(write(tmp_path, json.dumps(RECORD, indent=indent) + "\n\n")) == {"a.json": b"a text"}


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_objects_of_a_list_are_numbered(tmp_path, indent, mark):
    found = texts(write(tmp_path, mark + b"\n" + json.dumps([RECORD, {"text": "b"}], indent=indent).encode()))
    assert found == {"a.json:1": b"a text", "a.json:2": b"b"}


def test_lines_of_objects_keep_the_numbers_of_their_lines(tmp_path):
    data = f"\n{json.dumps(RECORD)}\n\nno json\n{json.dumps(RECORD)}\n"
    path = write(tmp_path, data)
    assert [*texts(path, bad="skip")] == ["a.json:2", "a.json:5"]
    assert f"4 of {str(path)!r} is not JSON" in message(path)


def test_lines_are_read_without_all_of_them_in_memory(tmp_path, monkeypatch):
    """The second line is out before the third is read."""

    class File:
        path = "a.json"

        def lines(self):
            yield b'{"text": "a"}\n'
            yield b'{"text": "b"}\n'
            raise RuntimeError("read too far")

    from longctx.config import DataConfig
    from longctx.data.formats.format import Reading
    from longctx.data.records.api import form_of

    found = json_records.values(File(), Reading(form_of(DataConfig()), "", lambda: None))
    assert [next(found).content.text, next(found).content.text] == [b"a", b"b"]


@pytest.mark.parametrize(
    "data, reason",
    [
        ('"text"', "is a JSON str; a file that is no list of objects must be one object"),
        ('[{"text": "a"}, 5]', "item 2 of 'a.json' is a JSON float; every item must be one object"),
        ('[{"txt": "a"}]', "the text fields there: 'txt'"),
        ('{"text": "a"', "is not JSON"),
        ("[" * 100_000, "nested deeper"),
        ('{"text": "a", "text": "b"}', "the key 'text' twice"),
        (b'{"text": "\xff"}', "is not UTF-8 at byte 10"),
        ('{"text": "a"}'.encode("utf-16"), "is UTF-16-LE; .json must be UTF-8"),
    ],
)
def test_bad_files(tmp_path, data, reason):
    path = write(tmp_path, data)
    (tmp_path / "b.txt").write_text("good")
    assert reason.replace("'a.json'", repr(str(path))) in message(path)
    assert reason in note(tmp_path)


def test_a_file_of_settings_may_be_ignored(tmp_path):
    write(tmp_path, "{}", "config.json")
    (tmp_path / "b.txt").write_text("good")
    assert "data.ignore=('.json',) all such files" in message(tmp_path)
    assert texts(tmp_path, ignore=(".json",)) == {"b.txt": b"good"}


def test_an_empty_list_holds_no_text(tmp_path):
    assert "holds no text" in message(write(tmp_path, "[]"))
    assert "holds no text" in message(write(tmp_path, " \n"))


def test_ndjson_is_utf8(tmp_path):
    path = write(tmp_path, '{"text": "a"}'.encode("utf-16"), "a.ndjson")
    assert "is UTF-16-LE; .ndjson must be UTF-8" in message(path)


def test_records_of_ids_are_documents(tmp_path):
    lines = [
        {"input_ids": [1, 2, 258], "mask": [0, 1, 1]},
        {"text": "a text", "input_ids": [1, 2]},
        {"input_ids": [7, 8]},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "b.json").write_text(json.dumps(lines[2:]))
    found = {one.name: one for one in load(tmp_path).held_out}
    assert found["a.jsonl:1"].ids.tolist() == [1, 2, 258] and found["a.jsonl:1"].counts.tolist() == [False, True, True]
    assert found["a.jsonl:2"].ids is None and found["a.jsonl:2"].text == b"a text"
    assert found["a.jsonl:3"].ids.tolist() == found["b.json:1"].ids.tolist() == [7, 8]
    for wrong in ("x", [1.5, 2], [[1, 2]], [1, "2b"], [1e300, 1], {"a": 1}):
        (tmp_path / "a.jsonl").write_text(json.dumps({"input_ids": wrong}) + "\n")
        assert "line 1 of" in message(tmp_path) and "has no list of" in message(tmp_path)
    (tmp_path / "a.jsonl").write_text('{"input_ids": [1, 2]}\n{"input_ids": [0, 300]}\n')
    assert f"line 2 of {str(tmp_path / 'a.jsonl')!r} has token 300 at 1 (from 0)" in message(tmp_path)
