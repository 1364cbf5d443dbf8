"""experiments.generate: what it refuses before it touches a device, and text that comes in pieces of characters."""
import os
import subprocess
import sys

import pytest
import tokenizers

from experiments import generate
from longctx import hf
from longctx.data.tokenizers import ByteTokenizer
from tests.experiments.test_bad_input import ROOT, has, problem
from tests.longctx.hf import tiny

SCRIPT = """
import sys
from experiments import config, generate
try:
    config.run(generate.main)
finally:
    assert "jax" not in sys.modules
"""


def command(tmp_path, *argv) -> list[str]:
    (tmp_path / "prompt").write_text("text")
    options = ["--checkpoint", str(tmp_path), "--prompt-file", str(tmp_path / "prompt"), "--max-new-tokens", "4"]
    return ["command", *options, *argv]


def refused(tmp_path, *argv) -> str:
    return problem(generate.main, command(tmp_path, *argv))


@pytest.mark.parametrize("argv, parts", [
    (["--max-new-tokens", "0"], ["max_new_tokens=0", "at least 1"]),
    (["--chunk", "-3"], ["chunk=-3", "at least 1"]),
    (["--temperature", "nan"], ["temperature=nan", "such as 0.8"]),
    (["--top-p", "1.5"], ["top_p=1.5", "at most 1"]),
    (["--prompt-file", "no/such"], ["--prompt-file='no/such'", "No such file"]),
    (["--checkpoint", "no/such"], ["--checkpoint='no/such'", "neither", "Hugging Face"]),
])
def test_what_it_refuses(argv, parts, tmp_path):
    has(refused(tmp_path, *argv), *parts)


def test_a_hugging_face_folder(tmp_path, capsys):
    folder = tiny.write(tmp_path / "model", "llama")                # which has no tokenizer
    checkpoint = ["--checkpoint", str(folder)]
    has(refused(tmp_path, *checkpoint, "--config.model.layers=2"), "--config.model.layers=2", "settings of a run")
    has(refused(tmp_path, *checkpoint), f"{str(folder)!r} is neither 'bytes' nor a tokenizer.json")
    has(refused(tmp_path, *checkpoint, "--tokenizer", "bytes"), "smaller than the 259 tokens")
    vocabulary = {"text": 0, "<eos>": 1} | {f"token{i}": i for i in range(2, hf.model_config(folder).vocab_size)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="text"))
    tokenizer.add_special_tokens(["<eos>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    generate.main(command(tmp_path, *checkpoint, "--chunk", "8"))
    words = capsys.readouterr().out.split()
    assert 1 <= len(words) <= 4 and set(words) <= set(vocabulary)


def test_an_option_that_there_is_not(capsys):
    with pytest.raises(SystemExit) as stopped:
        generate.main(["command", "--checkpoint", "x", "--prompt-file", "y", "--max-new-tokens", "4", "--top-k", "3"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("error: --top-k is not an option. Did you mean --top-p?")


def test_it_says_so_in_one_line_before_jax_is_there(tmp_path):
    done = subprocess.run([sys.executable, "-c", SCRIPT, "--checkpoint", "no/such", "--prompt-file", __file__,
                           "--max-new-tokens", "4"], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
                          timeout=60, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: --checkpoint='no/such'")


def test_characters_come_whole():
    tokenizer = ByteTokenizer()
    text = "a\u00e9\u4e2d\n\U0001f600 end\n"
    pieces = list(generate.text_as_it_comes(tokenizer, tokenizer.encode(text.encode())))
    assert "".join(pieces) == text and len(pieces) == len(text) + 1                 # and nothing at the end
    cut = list(generate.text_as_it_comes(tokenizer, tokenizer.encode("a\u00e9".encode()[:-1])))
    assert "".join(cut) == "a\ufffd"
