"""experiments.generate: what it refuses before it touches a device, what it reads, and where it stops."""

import dataclasses
import io
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from experiments import generate
from experiments.run import models, sources
from longctx import hf, meshes
from longctx.config import Config, DataConfig, ModelConfig
from longctx.data import tokenizers
from longctx.model import functional
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
        (["--top-k", "5"], ["top_k=5 has no effect at temperature=0"]),
        (["--stop", ""], ["--stop='' is in every text"]),
        (["--system", "Be brief."], ["--system is for --chat"]),
        (["--prompt-file", "no/such"], ["--prompt-file='no/such'", "No such file"]),
        (["--checkpoint", "no/such"], ["--checkpoint='no/such'", "neither", "Hugging Face"]),
    ],
)
def test_what_it_refuses(argv, parts, tmp_path):
    has(refused(tmp_path, *argv), *parts)


def test_a_hugging_face_folder(tmp_path, capsys):
    folder = tiny.write(tmp_path / "model", "llama")  # which has no tokenizer
    checkpoint = ["--checkpoint", str(folder)]
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
    assert sources.of_hugging_face(str(folder), []).ends == tuple(sorted({size - 2, end}))
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


CHAT = "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}"


def talking(tmp_path):
    """The folder of a model whose template writes roles and contents."""
    folder = tiny.write(tmp_path / "model", "llama")
    size = hf.model_config(folder).vocab_size
    words = tiny_tokenizers.words("text", "<eos>", "user", "assistant", *(f"token{i}" for i in range(4, size - 1)), "?")
    words.add_special_tokens(["<eos>"])
    tiny_tokenizers.write(folder, words, tokenizer_config={"chat_template": CHAT, "add_bos_token": False})
    return folder, words


def test_a_conversation_goes_on_from_what_was_said(tmp_path, capsys, monkeypatch):
    """Each answer is what the model says to the whole conversation; /new forgets it, a row that is full is said."""
    folder, words = talking(tmp_path)
    model, tokenizer = hf.load(folder), tokenizers.load(str(folder))
    ask = ["token5 token6", "token7"]
    conversation, want = "", []
    for turn in (*ask, "again"):
        conversation = "" if turn == "again" else conversation
        conversation += f"user {ask[0] if turn == 'again' else turn} "
        ids = tokenizer.encode(conversation.encode())
        row = model.generate([ids], 4, chunk=8, length=24)[0][len(ids) :]
        want.append(tokenizer.decode(row[row != 1]).strip())
        conversation += f"assistant {want[-1]} "
    lines = io.StringIO("\n".join([*ask, "", " ".join(30 * ["text"]), "/new", ask[0], "/exit", "never"]) + "\n")
    monkeypatch.setattr(sys, "stdin", lines)
    options = ["--chat", "--max-new-tokens", "4", "--chunk", "8", "--context", "24"]
    generate.main(["generate", "--checkpoint", str(folder), *options])
    out = capsys.readouterr()
    assert [line.strip() for line in out.out.splitlines()] == want and want[0] == want[2] != want[1]
    assert out.err.count("error: ") == 1 and "more than the 24" in out.err


def test_a_conversation_needs_a_template(tmp_path):
    folder, _ = talking(tmp_path)
    (folder / "tokenizer_config.json").unlink()
    has(problem(generate.main, ["generate", "--checkpoint", str(folder), "--chat"]), "has no chat template")


def test_settings_of_a_hugging_face_model(tmp_path):
    """RoPE, position method and masks change; what the weights were made with does not, and dtypes stay."""
    folder, _ = talking(tmp_path)
    stretched = ["--config.model.rope.scaling=yarn", "--config.model.rope.factor=4", "--config.model.position=nope"]
    stored = hf.model_config(folder)
    config = models.settings(folder, stored, stretched)
    assert (config.model.rope.scaling, config.model.rope.factor, config.model.position) == ("yarn", 4.0, "nope")
    assert (config.model.dtype, config.model.param_dtype) == ("float32", "float32")
    refused = lambda override: problem(models.settings, folder, stored, [override])
    has(refused("--config.model.layers=3"), "model.layers=3", "cannot be changed")
    has(refused("--config.optim.learning_rate=3"), "has no effect on a Hugging Face model")
    plain, other = (logits_of(sources.of_hugging_face(str(folder), said)) for said in ([], stretched))
    assert plain.shape == other.shape and (plain != other).any()


def logits_of(source):
    """Logits of a row of tokens."""
    mesh, graph, params = source.load(64)
    batch = {name: np.ones((1, 8), np.int32) for name in ("tokens", "segments")}
    batch["positions"] = np.arange(8, dtype=np.int32)[None]
    batch["tokens"] = batch["tokens"] * np.arange(8, dtype=np.int32)
    with jax.set_mesh(mesh):
        return np.asarray(functional.logits(graph, params, meshes.put_whole(batch, mesh)))


def test_a_run_ends_as_its_documents_do(tmp_path, monkeypatch):
    path = tiny_tokenizers.write(
        tmp_path, tiny_tokenizers.byte_level("<s>", "</s>", "<turn>"), generation_config={"eos_token_id": [2]}
    )
    config = Config(data=DataConfig(tokenizer=path, eos="</s>"), model=ModelConfig(vocab_size=264))
    monkeypatch.setattr(sources.configs, "from_workdir", lambda argv: (config, tmp_path))
    assert sources.of_run("workdir", []).ends == (1, 2)
    bytes_ = dataclasses.replace(config, data=DataConfig())
    monkeypatch.setattr(sources.configs, "from_workdir", lambda argv: (bytes_, tmp_path))
    assert sources.of_run("workdir", []).ends == (257,)


def test_a_prompt_is_parsed_and_what_it_loses_is_said(tmp_path, capsys):
    source = sources.Source(
        tokenizers.load(tiny_tokenizers.write(tmp_path, tiny_tokenizers.metaspace(unk=None))), 64, (), None
    )
    assert generate._tokens(source, "</s>a\u00e9".encode(), "the prompt")[:2].tolist() == [1, 2]
    assert "drops 1 characters of 1 of 1 texts ('\u00e9'): " in capsys.readouterr().err
    assert 2 not in generate._tokens(source, b"</s>a", "the prompt", parse=False)
    assert "('/', '<', '>'): " in capsys.readouterr().err


def test_an_option_that_there_is_not(capsys):
    with pytest.raises(SystemExit) as stopped:
        generate.main(["command", "--checkpoint", "x", "--prompt-file", "y", "--max-new-tokens", "4", "--top-q", "3"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("error: --top-q is not an option. Did you mean --top-p?")


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
