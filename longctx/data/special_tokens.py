"""Which tokens start and end documents and prompts, and which end a generation. Free of jax.

The first of these that says a token has the word:
1. what was asked for (data.bos, data.eos);
2. bos_token, eos_token, pad_token of tokenizer_config.json, then of special_tokens_map.json. `"bos_token": null` says
   that there is none;
3. bos_token_id, eos_token_id (the first of a list), pad_token_id of config.json, then of generation_config.json;
4. the template of the tokenizer.json itself: what it puts before and after a text;
5. where no file beside the tokenizer.json says an end: the one usual spelling that is among the added tokens. Several
   are an error, since web pages are full of <s> and tokenizers have tokens for it.
A tokenizer without BOS starts documents with EOS, as GPT-2 and Qwen do. One without PAD pads with EOS: padding has
weight 0 and segment 0, and its id is never looked at, so that a wrong PAD is passed over.
"""

import json
from pathlib import Path
from typing import NamedTuple

from longctx.errors import UserError
from longctx.json_files import read_object

TOKENIZER_CONFIG = "tokenizer_config.json"
WITH_TEXTS = (TOKENIZER_CONFIG, "special_tokens_map.json")
WITH_IDS = ("config.json", "generation_config.json")
USUAL = {
    "bos": (
        "<|begin_of_text|>",
        "<s>",
        "<bos>",
        "[BOS]",
        "<|startoftext|>",
        "<｜begin▁of▁sentence｜>",
        "[CLS]",
        "<BOS_TOKEN>",
    ),
    "eos": (
        "<|end_of_text|>",
        "</s>",
        "<eos>",
        "[EOS]",
        "<|endoftext|>",
        "<｜end▁of▁sentence｜>",
        "[SEP]",
        "<|im_end|>",
        "<EOS_TOKEN>",
    ),
    "pad": ("<pad>", "[PAD]", "<|pad|>", "<|finetune_right_pad_id|>", "<｜▁pad▁｜>", "<PAD>"),
}


class Special(NamedTuple):
    """Ids; in_prompts: whether a prompt, too, starts with bos: not where tokenizer_config.json says that there is none,
    or `"add_bos_token": false`."""

    bos: int
    eos: int
    pad: int
    in_prompts: bool


def find(tokenizer, folder: Path, field: str, bos: str = "", eos: str = "") -> Special:
    """The special tokens of a tokenizers.Tokenizer whose file lies in `folder`; data.tokenizer=`field` named it.

    bos, eos: the text of a token; "" to find it.

    Raises:
      UserError: for a token that the tokenizer does not have, an EOS that nothing says, or a BOS or EOS for which there
        are several usual spellings.
    """
    search = _Search(tokenizer, folder, field)
    end = search.asked("eos", eos)
    if end is None:
        end = search.found("eos")
    if end is None:
        raise UserError(
            f"data.tokenizer={field!r} has no end-of-document token: no file beside it says one, and it "
            f"has none of {' '.join(USUAL['eos'])}; data.eos must be the text of one of its tokens."
        )
    start = search.asked("bos", bos)
    if start is None and not search.has_no_bos:
        start = search.found("bos")
    in_prompts = not search.has_no_bos and search.texts.get(TOKENIZER_CONFIG, {}).get("add_bos_token") is not False
    return Special(end if start is None else start, end, search.pad(end), in_prompts)


def ends(folder, eos: int | None = None) -> tuple[int, ...]:
    """The tokens that end a generation: every eos_token_id of config.json and generation_config.json, and `eos`.

    Instruct models have several: the end of a turn, and of the text. Raises UserError for one that is no token id.
    """
    found = set() if eos is None else {eos}
    for name, content in _contents(Path(folder), WITH_IDS).items():
        found |= set(_ids(content, "eos", name))
    return tuple(sorted(found))


class _Search:
    """Where the special tokens of one tokenizer can be said."""

    def __init__(self, tokenizer, folder: Path, field: str):
        self.tokenizer, self.field = tokenizer, field
        self.texts, self.ids = _contents(folder, WITH_TEXTS), _contents(folder, WITH_IDS)
        self.has_no_bos = self.texts.get(TOKENIZER_CONFIG, {}).get("bos_token", "") is None
        self.added = {token.content: i for i, token in tokenizer.get_added_tokens_decoder().items()}

    def asked(self, role: str, text: str) -> int | None:
        return self._token(role, text, f"data.{role}") if text else None

    def found(self, role: str) -> int | None:
        for where, text in self._said_texts(role):
            return self._token(role, text, where)
        for where, token in self._said_ids(role):
            if self.tokenizer.id_to_token(token) is None:
                raise self._unknown(role, token, where)
            return token
        by_template = self.tokenizer.token_to_id(_template(self.tokenizer)[role] or "")
        if by_template is not None or self._said_texts("eos") or self._said_ids("eos"):
            return by_template
        return self._usual(role)

    def pad(self, otherwise: int) -> int:
        found = [self.tokenizer.token_to_id(text) for _, text in self._said_texts("pad")]
        found += [token for _, token in self._said_ids("pad") if self.tokenizer.id_to_token(token) is not None]
        found += [self.added.get(text) for text in USUAL["pad"]]
        return next((token for token in found if token is not None), otherwise)

    def _said_texts(self, role: str) -> list[tuple[str, str]]:
        said = [(f"{name}: {role}_token", token_text(content, role, name)) for name, content in self.texts.items()]
        return [(where, text) for where, text in said if text is not None]

    def _said_ids(self, role: str) -> list[tuple[str, int]]:
        return [
            (f"{name}: {role}_token_id", token)
            for name, content in self.ids.items()
            for token in _ids(content, role, name)
        ]

    def _usual(self, role: str) -> int | None:
        candidates = [text for text in USUAL[role] if text in self.added]
        if len(candidates) > 1:
            raise UserError(
                f"data.tokenizer={self.field!r} has several tokens that could be its {role.upper()}: "
                f"{' '.join(candidates)}; no file beside it says which. data.{role}={candidates[0]!r} or "
                f"{role}_token in {TOKENIZER_CONFIG} would."
            )
        return self.added[candidates[0]] if candidates else None

    def _token(self, role: str, text: str, where: str) -> int:
        token = self.tokenizer.token_to_id(text)
        if token is None:
            raise self._unknown(role, text, where)
        return token

    def _unknown(self, role: str, token: str | int, where: str) -> UserError:
        return UserError(
            f"{where}={token!r} is no token of data.tokenizer={self.field!r}; data.{role} must be the "
            "text of one of its tokens."
        )


def _contents(folder: Path, names: tuple[str, ...]) -> dict[str, dict]:
    return {name: read_object(folder / name) for name in names if (folder / name).is_file()}


def token_text(content: dict, role: str, name: str) -> str | None:
    """bos_token, ... of a file: a string, or an object with its `content`."""
    value = content.get(f"{role}_token")
    value = value.get("content") if isinstance(value, dict) else value
    if value is not None and not isinstance(value, str):
        raise UserError(f"{name}: {role}_token={value!r} must be the text of a token.")
    return value


def _ids(content: dict, role: str, name: str) -> list[int]:
    """bos_token_id, ... of a file: null, a number or a list of them."""
    value = content.get(f"{role}_token_id")
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(token, int) and not isinstance(token, bool) and 0 <= token < 2**31 for token in ids):
        raise UserError(f"{name}: {role}_token_id={value!r} must be a token's number, or a list of them.")
    return ids


def _template(tokenizer) -> dict[str, str | None]:
    """The tokens that a tokenizer.json's own template puts before and after a text."""
    state = json.loads(tokenizer.post_processor.__getstate__()) if tokenizer.post_processor else {}
    for part in state.get("processors", [state]):
        pieces = [piece.get("SpecialToken", {}).get("id") for piece in part.get("single", [])]
        if pieces:
            return {"bos": pieces[0], "eos": pieces[-1]}
    return {"bos": None, "eos": None}
