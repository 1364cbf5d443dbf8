"""experiments.tokenize: a folder for each source, which training and experiments.data read as they read text."""

import json

import pytest

from experiments import data, tokenize
from longctx.data import store
from longctx.data.tokenizers import ByteTokenizer
from longctx.errors import UserError
from tests.helpers import ROOT

SMOKE = f"--config={ROOT / 'configs/quickstart.py'}:smoke"


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"text": f"document {i} " * (i % 7)}) + "\n" for i in range(90)))
    return path


def test_a_folder_is_fed_as_its_text_is(tmp_path, text, capsys):
    out = tmp_path / "store"
    tokenize.main(["tokenize", SMOKE, f"--config.data.path={text}", f"--out={out}", "--processes=1"])
    said = capsys.readouterr().out
    assert "left out of data.path=" in said and "13 empty documents" in said
    found = store.open_store(out, ByteTokenizer())
    assert f"{out}: 77 documents, {len(found.table.ids):,} tokens" in said and "MB/s" in said
    shown = []
    for path in (text, out):
        data.main(["data", SMOKE, f"--config.data.path={path}", f"--workdir={tmp_path / 'shown'}"])
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]


def test_every_source_has_a_folder(tmp_path, text, capsys):
    config = tmp_path / "mixed.py"
    config.write_text(
        "from experiments.settings import defaults, source\n"
        "def get_config(arg=''):\n"
        "    config = defaults()\n"
        f"    config.data.mix = (source('one', {str(text)!r}), source('two', {str(text)!r}, shortest=5))\n"
        "    return config\n"
    )
    tokenize.main(["tokenize", f"--config={config}", f"--out={tmp_path / 'stores'}", "--processes=1"])
    assert [path.name for path in sorted((tmp_path / "stores").iterdir())] == ["one", "two"]
    assert capsys.readouterr().out.count("77 documents") == 2


def test_what_cannot_be_tokenised_is_one_line(tmp_path, text):
    given = ["tokenize", SMOKE, f"--out={tmp_path / 'store'}"]
    for more, reason in (
        ([], "data.path='stdlib' is small"),
        (["--processes=0"], "--processes=0 must be at least 1"),
        (["--config.data.path=nowhere"], "data.path='nowhere' does not exist"),
    ):
        with pytest.raises(UserError, match=reason):
            tokenize.main([*given, *more])
