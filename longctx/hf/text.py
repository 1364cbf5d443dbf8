"""The tokenizer files in a model's folder, and its bos, eos and pad tokens. Free of jax."""

import json
import os
import pathlib
import shutil

from longctx.config import DataConfig
from longctx.data import tokenizers
from longctx.json_files import read_object

FILE, SETTINGS, GENERATION = "tokenizer.json", "tokenizer_config.json", "generation_config.json"
# the files that transformers looks for beside tokenizer.json
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
    """Copies those of the named files that exist. source: their folder, or a tokenizer.json of any name beside them."""
    source = pathlib.Path(os.path.expanduser(source))
    folder = source.parent if source.is_file() else source
    directory.mkdir(parents=True, exist_ok=True)
    for name in names:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, directory / name)
    if source.is_file():
        shutil.copyfile(source, directory / FILE)


def write(data: DataConfig, directory: pathlib.Path, longest: int) -> None:
    """Writes a run's tokenizer as AutoTokenizer loads it, and generation_config.json with its bos, eos and pad.

    longest: model_max_length, in tokens.
    """
    if data.tokenizer == "bytes":
        _of_bytes().save(str(directory / FILE))
    else:
        copy(data.tokenizer, directory, tuple(name for name in FILES if name != GENERATION))
    given = read_object(directory / SETTINGS) if (directory / SETTINGS).exists() else None
    dump(directory / SETTINGS, _settings(data, directory) if given is None else _completed(data, directory, given))
    limit(directory, longest)
    ends = tokenizers.of(data).ends
    dump(directory / GENERATION, ids(data) | ({"eos_token_id": list(ends)} if len(ends) > 1 else {}))


def generation(content: dict, directory: pathlib.Path) -> None:
    """Writes generation_config.json into a folder that has none, with the bos, eos and pad of config.json's content."""
    said = {name: content[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id") if name in content}
    if said and not (directory / GENERATION).exists():
        dump(directory / GENERATION, said)


def limit(directory: pathlib.Path, longest: int) -> None:
    """Sets model_max_length in a folder's tokenizer_config.json, if there is one."""
    path = directory / SETTINGS
    if path.exists():
        dump(path, read_object(path) | {"model_max_length": longest})


def ids(data: DataConfig) -> dict[str, int]:
    """bos_token_id, eos_token_id and pad_token_id, for config.json and generation_config.json."""
    loaded = tokenizers.of(data)
    return {f"{name}_token_id": getattr(loaded, name) for name in ("bos", "eos", "pad")}


def _settings(data: DataConfig, directory: pathlib.Path) -> dict:
    """The content of tokenizer_config.json. split_special_tokens: "<eos>" inside a document is text, as in training."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,
    } | _special(data, directory)


def _completed(data: DataConfig, directory: pathlib.Path, given: dict) -> dict:
    """A tokenizer_config.json with the run's bos and eos where data names them, and its eos and pad where it has none.

    One without a bos stays without: its prompts begin with none.
    """
    special, named = _special(data, directory), {"bos_token": data.bos, "eos_token": data.eos}
    said = {name: special[name] for name, text in named.items() if text}
    return given | {name: special[name] for name in ("eos_token", "pad_token") if given.get(name) is None} | said


def _special(data: DataConfig, directory: pathlib.Path) -> dict[str, str | None]:
    """The texts of bos_token, eos_token and pad_token."""
    import tokenizers as library

    file = library.Tokenizer.from_file(str(directory / FILE))
    return {name.removesuffix("_id"): file.id_to_token(i) for name, i in ids(data).items()}


def _of_bytes():
    """ByteTokenizer in the `tokenizers` library: a BPE without merges over GPT-2's letters for bytes, behind BOS."""
    import tokenizers as library
    from tokenizers import decoders, models, pre_tokenizers, processors

    tokenizer = library.Tokenizer(models.BPE({letter: i for i, letter in enumerate(_letters())}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(_OF_BYTES.values()))
    bos = _OF_BYTES["bos_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[bos, "$A"], pair=[bos, "$A", f"{bos}:1", "$B:1"], special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )
    return tokenizer


def _letters() -> list[str]:
    """The letter of each byte in GPT-2's alphabet: the byte's own if printable, else the next one from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def dump(path: pathlib.Path, content: dict) -> None:
    """Writes one of the JSON files in a model's folder."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
