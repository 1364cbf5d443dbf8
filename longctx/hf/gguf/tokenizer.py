"""The tokenizer in a GGUF file's metadata, as the files that the `tokenizers` library and transformers load.

A file holds tokens with their kinds, and either the merges of a byte-level BPE or the scores of a SentencePiece BPE.
How the former cuts text before it merges is only named (tokenizer.ggml.pre); PRE has what the names stand for. Free of
jax.
"""

import enum
import pathlib

from longctx.errors import unknown_name
from longctx.hf import text
from longctx.hf.gguf.file import Metadata

SPACE = "\u2581"  # SentencePiece's letter for a space
_END = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = _END + r"|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_ROLES = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}  # ours: transformers' word for it


class Kind(enum.IntEnum):
    """Kinds of tokens in tokenizer.ggml.token_type."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


def write(metadata: Metadata, folder: pathlib.Path) -> None:
    """Writes tokenizer.json and tokenizer_config.json into a folder.

    Raises UserError for a tokenizer that is not known. A file without a tokenizer gets none.
    """
    if "tokenizer.ggml.tokens" not in metadata:
        return
    _tokenizer(metadata).save(str(folder / text.FILE))
    text.dump(folder / text.SETTINGS, _config(metadata))


def ids(metadata: Metadata) -> dict:
    """bos_token_id, eos_token_id and pad_token_id of config.json; several eos where a turn has an end of its own."""
    given = {f"{word}_token_id": _id(metadata, ours) for ours, word in _ROLES.items() if ours != "unknown"}
    ends = [token for token in (given["eos_token_id"], _id(metadata, "eot")) if token is not None]
    ends = list(dict.fromkeys(ends))
    return given | ({"eos_token_id": ends} if len(ends) > 1 else {})


def _id(metadata: Metadata, role: str) -> int | None:
    return metadata.get(f"tokenizer.ggml.{role}_token_id")


def _config(metadata: Metadata) -> dict:
    tokens = metadata["tokenizer.ggml.tokens"]
    named = {f"{word}_token": _id(metadata, ours) for ours, word in _ROLES.items()}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "add_bos_token": bool(metadata.get("tokenizer.ggml.add_bos_token")),
    } | {name: tokens[token] for name, token in named.items() if token is not None}
    template = metadata.get("tokenizer.chat_template")
    return config | ({"chat_template": template} if template else {})


def _tokenizer(metadata: Metadata):
    """The tokenizers.Tokenizer of a file."""
    from tokenizers import AddedToken, processors

    model = metadata["tokenizer.ggml.model"]
    if model not in MODELS:
        raise unknown_name(f"{metadata.path}: tokenizer.ggml.model", model, MODELS)
    tokens = metadata["tokenizer.ggml.tokens"]
    kinds = metadata.get("tokenizer.ggml.token_type") or [int(Kind.NORMAL)] * len(tokens)
    if model == "llama":  # whose converter writes spaces in these tokens
        own = [kind == Kind.USER_DEFINED for kind in kinds]
        tokens = [token.replace(" ", SPACE) if mine else token for token, mine in zip(tokens, own, strict=True)]
    tokenizer = MODELS[model](metadata, tokens, kinds)
    added = lambda kind, special: [
        AddedToken(token, special=special, normalized=False)
        for token, own in zip(tokens, kinds, strict=True)
        if own == kind and token.strip(SPACE)  # runs of spaces are merged, as transformers has it
    ]
    tokenizer.add_special_tokens(added(Kind.CONTROL, True))
    tokenizer.add_tokens(added(Kind.USER_DEFINED, False))
    bos = _id(metadata, "bos")
    if metadata.get("tokenizer.ggml.add_bos_token") and bos is not None:
        start = tokens[bos]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[start, "$A"], pair=[start, "$A", f"{start}:1", "$B:1"], special_tokens=[(start, bos)]
        )
    return tokenizer


def _byte_level(metadata: Metadata, tokens: list[str], kinds: list[int]):
    """A byte-level BPE, as GPT-2 has it."""
    import tokenizers
    from tokenizers import decoders, models

    pre = metadata.get("tokenizer.ggml.pre", "default")
    if pre not in PRE:
        raise unknown_name(f"{metadata.path}: tokenizer.ggml.pre", pre, PRE)
    merges = [tuple(merge.split(" ", 1)) for merge in metadata["tokenizer.ggml.merges"]]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, merges, ignore_merges=pre in WHOLE_WORDS))
    tokenizer.normalizer, tokenizer.pre_tokenizer = PRE[pre]()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentence_piece(metadata: Metadata, tokens: list[str], kinds: list[int]):
    """A BPE over characters with bytes for those that have no token, as SentencePiece trains it."""
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    scores = metadata["tokenizer.ggml.scores"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    merged = [i for i, kind in enumerate(kinds) if kind in (Kind.NORMAL, Kind.USER_DEFINED)]
    unknown = _id(metadata, "unknown")
    model = models.BPE(
        vocabulary,
        _merges(vocabulary, [(tokens[i], 0.0 if kinds[i] == Kind.USER_DEFINED else scores[i]) for i in merged]),
        unk_token=None if unknown is None else tokens[unknown],
        fuse_unk=True,
        byte_fallback=Kind.BYTE in kinds,
    )
    tokenizer = tokenizers.Tokenizer(model)
    replaced, prefix = normalizers.Replace(" ", SPACE), metadata.get("tokenizer.ggml.add_space_prefix", True)
    back = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if prefix:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), replaced])
        tokenizer.decoder = decoders.Sequence([*back, decoders.Strip(" ", 1, 0)])
    else:
        tokenizer.normalizer = replaced
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
        tokenizer.decoder = decoders.Sequence(back)
    return tokenizer


def _merges(vocabulary: dict[str, int], scored: list[tuple[str, float]]) -> list[tuple[str, str]]:
    """The merges of a BPE that joins two pieces whenever what they make is a token, best scores first."""
    merges = []
    for token, _ in sorted(scored, key=lambda of: -of[1]):
        cuts = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        known = [
            (vocabulary[left], vocabulary[right], left, right)
            for left, right in cuts
            if {left, right} <= vocabulary.keys()
        ]
        merges += [(left, right) for *_, left, right in sorted(known)]
    return merges


def _gpt2():
    """GPT-2's words and runs of digits."""
    from tokenizers import pre_tokenizers

    return None, pre_tokenizers.ByteLevel(add_prefix_space=False)


def _single_digits():
    """GPT-2's words, and every digit for itself."""
    from tokenizers import pre_tokenizers

    digits = pre_tokenizers.Digits(individual_digits=True)
    return None, pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])


def _llama3():
    """Llama 3's words, and digits by threes."""
    return None, _words(r"\p{N}{1,3}")


def _qwen2():
    """Qwen 2's words, and every digit for itself, after NFC."""
    from tokenizers import normalizers

    return normalizers.NFC(), _words(r"\p{N}")


def _gpt4o():
    """GPT-4o's words (o200k): capitals go before small letters, what is shortened behind an apostrophe belongs to its
    word, digits come by threes, slashes after marks stay with them."""
    large, small, marks = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]", r"[^\r\n\p{L}\p{N}]?"
    words = (f"{marks}{large}{many}{_END}?" for many in (f"*{small}+", f"+{small}*"))
    others = r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"
    return None, _split("|".join((*words, *others)))


def _words(numbers: str):
    """A pre-tokenizer by the expression that Llama 3 and Qwen 2 share but for `numbers`."""
    return _split(_WORDS % numbers)


def _split(expression: str):
    """A pre-tokenizer of bytes by what an expression finds."""
    from tokenizers import Regex, pre_tokenizers

    split = pre_tokenizers.Split(Regex(expression), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


MODELS = {"gpt2": _byte_level, "llama": _sentence_piece}
# by tokenizer.ggml.pre: () -> (normalizer or None, pre-tokenizer)
PRE = {
    "gpt-2": _gpt2,
    "smollm": _single_digits,
    "starcoder": _single_digits,
    "refact": _single_digits,
    "llama-bpe": _llama3,
    "qwen2": _qwen2,
    "gpt-4o": _gpt4o,
}
WHOLE_WORDS = ("llama-bpe", "gpt-4o")  # a word that is a token is that token, whatever the merges say
