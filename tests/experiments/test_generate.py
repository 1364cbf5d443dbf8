"""experiments.generate: what it refuses before it touches a device, what it reads, and where it stops."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest

from experiments import generate
from longctx import hf
from longctx.config import Config, DataConfig, ModelConfig
from longctx.data import tokenizers
from tests.experiments.settings.test_bad_input import ROOT, has, problem
from tests.longctx.data import tiny_tokenizers
from tests.longctx.hf import tiny

SCRIPT = """
import sys
from experiments import generate
from experiments.run import command
try:
    command.run(generate.main)
finally:
    assert "jax" not in sys.modules
"""


def command(tmp_path, *argv) -> list[str]:
    (tmp_path / "prompt").write_text("text")
    options = ["--checkpoint", str(tmp_path), "--prompt-file", str(tmp_path / "prompt"), "--max-new-tokens", "4"]
    return ["command", *options, *argv]


def refused(tmp_path, *argv) -> str:
    return problem(generate.main, command(tmp_path, *argv))


@pytest.mark.parametrize(
    "argv, parts",
    [
        (["--max-new-tokens", "0"], ["max_new_tokens=0", "at least 1"]),
        (["--chunk", "-3"], ["chunk=-3", "at least 1"]),
        (["--temperature", "nan"], ["temperature=nan", "such as 0.8"]),
        (["--top-p", "1.5"], ["top_p=1.5", "at most 1"]),
        (["--prompt-file", "no/such"], ["--prompt-file='no/such'", "No such file"]),
        (["--checkpoint", "no/such"], ["--checkpoint='no/such'", "neither", "Hugging Face"]),
    ],
)
def test_what_it_refuses(argv, parts, tmp_path):
    has(refused(tmp_path, *argv), *parts)


def test_a_hugging_face_folder(tmp_path, capsys):
    folder = tiny.write(tmp_path / "model", "llama")  # which has no tokenizer
    checkpoint = ["--checkpoint", str(folder)]
    has(refused(tmp_path, *checkpoint, "--config.model.layers=2"), "--config.model.layers=2", "settings of a run")
    has(refused(tmp_path, *checkpoint), f"{str(folder)!r} is neither 'bytes' nor a tokenizer.json")
    has(refused(tmp_path, *checkpoint, "--tokenizer", "bytes"), "smaller than the 259 tokens")


def test_a_hugging_face_model_stops_at_any_of_its_ends_everywhere(tmp_path, capsys):
    """In the command as in Model.generate: those of config.json and of generation_config.json."""
    folder = tiny.write(tmp_path / "model", "llama")
    size = hf.model_config(folder).vocab_size
    words = tiny_tokenizers.words("text", "<eos>", *(f"token{i}" for i in range(2, size - 1)), "?")
    words.add_special_tokens(["<eos>", "<image>"])  # <image> has no row in the embedding
    tiny_tokenizers.write(folder, words)
    prompt, free = _continued(folder, stop=())
    end = int(free[1])
    written = [words.id_to_token(token) for token in free if token != 1]
    assert len(free) == 4 and said(capsys, tmp_path, folder) == written[: written.index("<eos>") if 1 in free else 4]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [size - 2, end]}))
    _, ended = _continued(folder)
    assert ended.tolist() == free[: free.tolist().index(end) + 1].tolist()
    assert said(capsys, tmp_path, folder) == [words.id_to_token(token) for token in ended if token != 1]
    assert generate.of_hugging_face(str(folder), None, []).ends == tuple(sorted({size - 2, end}))
    (tmp_path / "image").write_text("text <image>")
    image = ["--checkpoint", str(folder), "--prompt-file", str(tmp_path / "image")]
    has(refused(tmp_path, *image), "holds '<image>'", f"the model has only {size}")


def _continued(folder, **how):
    """(a prompt, its four tokens or fewer)."""
    model, prompt = hf.load(folder), tokenizers.load(str(folder)).encode_prompt(b"text", 10**6)
    return prompt, model.generate([prompt], 4, chunk=8, **how)[0][len(prompt) :]


def said(capsys, tmp_path, folder) -> list[str]:
    generate.main(command(tmp_path, "--checkpoint", str(folder), "--chunk", "8"))
    return capsys.readouterr().out.split()


def test_a_run_ends_as_its_documents_do(tmp_path, monkeypatch):
    path = tiny_tokenizers.write(
        tmp_path, tiny_tokenizers.byte_level("<s>", "</s>", "<turn>"), generation_config={"eos_token_id": [2]}
    )
    config = Config(data=DataConfig(tokenizer=path, eos="</s>"), model=ModelConfig(vocab_size=264))
    monkeypatch.setattr(generate.configs, "from_workdir", lambda argv: (config, tmp_path))
    assert generate.of_run("workdir", None, []).ends == (1, 2)
    bytes_ = dataclasses.replace(config, data=DataConfig())
    monkeypatch.setattr(generate.configs, "from_workdir", lambda argv: (bytes_, tmp_path))
    assert generate.of_run("workdir", None, []).ends == (257,)


def test_a_prompt_is_parsed_and_what_it_loses_is_said(tmp_path, capsys):
    source = generate.Source(
        tokenizers.load(tiny_tokenizers.write(tmp_path, tiny_tokenizers.metaspace(unk=None))), 64, (), None
    )
    asked = lambda *argv: generate.arguments(command(tmp_path, *argv)[1:])[0]
    assert generate._tokens(source, "</s>a\u00e9".encode(), asked())[:2].tolist() == [1, 2]
    assert "drops 1 characters of 1 of 1 texts ('\u00e9'): " in capsys.readouterr().err
    assert 2 not in generate._tokens(source, b"</s>a", asked("--special-tokens", "text"))
    assert "('/', '<', '>'): " in capsys.readouterr().err


def test_an_option_that_there_is_not(capsys):
    with pytest.raises(SystemExit) as stopped:
        generate.main(["command", "--checkpoint", "x", "--prompt-file", "y", "--max-new-tokens", "4", "--top-k", "3"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("error: --top-k is not an option. Did you mean --top-p?")


def test_it_says_so_in_one_line_before_jax_is_there(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, "--checkpoint", "no/such", "--prompt-file", __file__, "--max-new-tokens", "4"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=60,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: --checkpoint='no/such'")
