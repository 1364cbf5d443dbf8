"""What lies beside a model and belongs to its text: the files of its tokenizer, its bos, eos and pad. Free of jax."""

import json
import os
import pathlib
import shutil

from longctx.config import DataConfig
from longctx.data import tokenizers

FILE, SETTINGS, GENERATION = "tokenizer.json", "tokenizer_config.json", "generation_config.json"
# chat_template.json and the rest are what transformers looks for beside tokenizer.json
FILES = (
    FILE,
    SETTINGS,
    "tokenizer.model",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    GENERATION,
)
_OF_BYTES = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}


def copy(source, directory: pathlib.Path, names: tuple[str, ...] = FILES) -> None:
    """Copies the named files that a folder has, or that lie beside a tokenizer.json, whatever that is called."""
    source = pathlib.Path(os.path.expanduser(source))
    folder = source.parent if source.is_file() else source
    directory.mkdir(parents=True, exist_ok=True)
    for name in names:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, directory / name)
    if source.is_file():
        shutil.copyfile(source, directory / FILE)


def write(data: DataConfig, directory: pathlib.Path, longest: int) -> None:
    """The tokenizer of a run as AutoTokenizer loads it, and generation_config.json with its bos, eos and pad.

    longest: model_max_length, in tokens.
    """
    if data.tokenizer == "bytes":
        _of_bytes().save(str(directory / FILE))
    else:
        copy(data.tokenizer, directory, tuple(name for name in FILES if name != GENERATION))
    if not (directory / SETTINGS).exists():
        _dump(directory / SETTINGS, _settings(data, directory))
    limit(directory, longest)
    ends = tokenizers.of(data).ends
    _dump(directory / GENERATION, ids(data) | ({"eos_token_id": list(ends)} if len(ends) > 1 else {}))


def limit(directory: pathlib.Path, longest: int) -> None:
    """Sets model_max_length of the tokenizer in a folder, if it has settings."""
    path = directory / SETTINGS
    if path.exists():
        _dump(path, json.loads(path.read_text()) | {"model_max_length": longest})


def ids(data: DataConfig) -> dict[str, int]:
    """What config.json and generation_config.json say of a tokenizer."""
    loaded = tokenizers.of(data)
    return {f"{name}_token_id": getattr(loaded, name) for name in ("bos", "eos", "pad")}


def _settings(data: DataConfig, directory: pathlib.Path) -> dict:
    """tokenizer_config.json; split_special_tokens: their text inside a document is text, as it is to us."""
    import tokenizers as library

    file = library.Tokenizer.from_file(str(directory / FILE))
    special = {name.removesuffix("_id"): file.id_to_token(i) for name, i in ids(data).items()}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,
    } | special


def _of_bytes():
    """ByteTokenizer for the `tokenizers` library: a BPE without merges, whose letters stand for bytes as GPT-2's do."""
    import tokenizers as library
    from tokenizers import decoders, models, pre_tokenizers

    made = library.Tokenizer(models.BPE({letter: i for i, letter in enumerate(_letters())}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(list(_OF_BYTES.values()))
    return made


def _letters() -> list[str]:
    """The letter of each byte in GPT-2's alphabet: itself where it can be seen, else one from U+0100 on, in order."""
    seen = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    unseen = iter(range(0x100, 0x200))
    return [chr(byte if byte in seen else next(unseen)) for byte in range(256)]


def _dump(path: pathlib.Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
