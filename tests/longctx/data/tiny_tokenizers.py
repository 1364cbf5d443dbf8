"""Tiny tokenizer.json files of the usual kinds, written without training."""

import json
import pathlib

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

PIECES = ["▁", "a", "b", "▁a", "▁b", "ab", "▁▁", "\n", "▁is", "is", "i", "s", *"0123456789", "12", "▁1"]


def metaspace(unk: str | None = "<unk>") -> tokenizers.Tokenizer:
    """As Mistral's: a space is put in front of a text, and taken off again."""
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(["<unk>", "<s>", "</s>", *PIECES]))}
    merges = [("▁", "a"), ("▁", "b"), ("a", "b"), ("▁", "▁"), ("i", "s"), ("▁", "is"), ("1", "2"), ("▁", "1")]
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, merges, unk_token=unk))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


def byte_fallback() -> tokenizers.Tokenizer:
    """As Llama 2's: no words, bytes for unknown characters, one space taken off when decoding."""
    by_byte = [f"<0x{byte:02X}>" for byte in range(256)]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(["<unk>", "<s>", "</s>", *by_byte, *PIECES]))}
    merges = [("▁", "a"), ("▁", "b"), ("▁", "▁"), ("i", "s"), ("▁", "is"), ("1", "2")]
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


def byte_level(*special: str, alphabet=None) -> tokenizers.Tokenizer:
    """As GPT-2's: every byte is a token, and so is "12" with a space before it."""
    pieces = [*special, *(alphabet or sorted(pre_tokenizers.ByteLevel.alphabet()))]
    merges = [] if alphabet else [("1", "2"), ("Ġ", "12")]
    vocabulary = {piece: i for i, piece in enumerate([*pieces, *("".join(pair) for pair in merges)])}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special))
    return tokenizer


def words(*pieces: str) -> tokenizers.Tokenizer:
    """A token per word, and none for others."""
    tokenizer = tokenizers.Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def write(folder: pathlib.Path, tokenizer: tokenizers.Tokenizer, **files: dict) -> str:
    """The folder of a tokenizer.json, with what the `files` beside it say (tokenizer_config={...})."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return str(folder)
