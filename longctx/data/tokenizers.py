"""Text to token ids: plain bytes, or a local tokenizer.json."""

import contextlib
import functools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from longctx.config import DataConfig
from longctx.data import special_tokens
from longctx.data.rust_calls import RustCall, panics_unreported
from longctx.errors import UserError
from longctx.memory import sizes

BATCH_BYTES = 1 << 22  # text per call into `tokenizers`: its results take many times the memory of the ids
LARGEST_FILE = 64 << 20  # bytes of a tokenizer.json; the largest published ones have 35 MB
SENTENCE_PIECE = "tokenizer.model"  # what older models have in place of a tokenizer.json
MEMORY_OF_FILE = 15  # bytes of memory per byte of it, about

Encoded = tuple[np.ndarray, np.ndarray]
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")  # a token of a byte-fallback tokenizer


class Tokenizer(Protocol):
    """The ids that encode() returns, bos, eos and pad are below vocab_size.

    bos starts a document, eos ends it, pad fills rows (and is never predicted). ends: the tokens that end a generation.
    """

    name: str
    vocab_size: int
    bos: int
    eos: int
    pad: int
    ends: tuple[int, ...]

    def encode(self, text: bytes, name: str = "the text") -> np.ndarray:
        """int32[n], without bos and eos; the text of a special token is text. Raises UserError with `name` for text
        that is not UTF-8, if that matters."""

    def encode_batch(self, texts: Sequence[bytes], names: Sequence[str]) -> Iterator[np.ndarray]:
        """encode() of each text, in order."""

    def encode_with_spans(self, text: bytes, special: bool = False, name: str = "the text") -> Encoded:
        """(encode(text, name), int64[n, 2]): token i stands for text[spans[i, 0]:spans[i, 1]].

        special: the text of a special token is that token.
        """

    def encode_prompt(
        self, text: bytes, vocab_size: int, name: str = "the text", special: bool = True, start: bool = True
    ) -> np.ndarray:
        """int32[n]: a text to be continued, behind bos if the model's prompts start with it (start=False: as it is).

        The text of a special token is that token (special=False: text), and a prompt that begins with bos gets no
        second one. Raises UserError, too, for a special token that a model of vocab_size tokens does not have.
        """

    def decode(self, ids) -> str:
        """The text of ids, special tokens left out. Bytes that are not UTF-8 become U+FFFD."""

    def writes(self, token: int) -> bool:
        """Whether decode() does not leave it out."""

    def spelling(self, token: int) -> bytes:
        """The bytes that a token adds to a text; the name of a special one, b"" where there is no such token."""

    def dropped(self, text: bytes, special: bool = False) -> dict[str, int]:
        """The characters of a text that no token stands for, and how many of each there are; special: as a prompt."""


class ByteTokenizer:
    """The 256 byte values as they are, then BOS 256, EOS 257, PAD 258. Takes any bytes."""

    name = "bytes"
    vocab_size, bos, eos, pad = 259, 256, 257, 258
    ends = (257,)

    def encode(self, text: bytes, name: str = "the text") -> np.ndarray:
        return np.frombuffer(text, np.uint8).astype(np.int32)

    def encode_batch(self, texts: Sequence[bytes], names: Sequence[str]) -> Iterator[np.ndarray]:
        return map(self.encode, texts, names)

    def encode_with_spans(self, text: bytes, special: bool = False, name: str = "the text") -> Encoded:
        start = np.arange(len(text))
        return self.encode(text), np.stack([start, start + 1], 1)

    def encode_prompt(
        self, text: bytes, vocab_size: int, name: str = "the text", special: bool = True, start: bool = True
    ) -> np.ndarray:
        return np.append(np.int32(self.bos), self.encode(text)) if start else self.encode(text)

    def decode(self, ids) -> str:
        ids = np.asarray(ids)
        return ids[ids < 256].astype(np.uint8).tobytes().decode("utf-8", "replace")

    def writes(self, token: int) -> bool:
        return token < 256

    def spelling(self, token: int) -> bytes:
        if token < 256:
            return bytes([token])
        return {self.bos: b"<bos>", self.eos: b"<eos>", self.pad: b"<pad>"}.get(token, b"")

    def dropped(self, text: bytes, special: bool = False) -> dict[str, int]:
        return {}


class FileTokenizer:
    """A tokenizer.json in the format of the `tokenizers` library.

    Truncation, padding and automatic special tokens that the file asks for are off. No ids are added. special_tokens.py
    says where bos, eos and pad come from.
    """

    def __init__(self, path: Path, field: str, bos: str = "", eos: str = ""):
        self.name = field
        self._call = RustCall(f"data.tokenizer={field!r}")
        self._tokenizer = _from_file(path, field)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True
        self.bos, self.eos, self.pad, self._in_prompts = special_tokens.find(
            self._tokenizer, path.parent, field, bos, eos
        )
        self.ends = special_tokens.ends(path.parent, self.eos)
        added = self._tokenizer.get_added_tokens_decoder()
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=False)
        self._added, self._special = {*added}, {i for i, token in added.items() if token.special}
        # ids can have gaps; special tokens that text is never may be beyond the rows of the model's embedding
        self.vocab_size = 1 + max(*vocabulary.values(), *(self._added - self._special), self.bos, self.eos, self.pad)
        self._kept = {} if _drops_text(self._tokenizer, vocabulary) else None  # by character: has it a token?

    def encode(self, text: bytes, name: str = "the text") -> np.ndarray:
        return np.array(self._encoding(self._decoded(text, name)).ids, np.int32)

    def encode_batch(self, texts: Sequence[bytes], names: Sequence[str]) -> Iterator[np.ndarray]:
        batch, size = [], 0
        for text, name in zip(texts, names, strict=True):
            batch.append(self._decoded(text, name))
            size += len(text)
            if size >= BATCH_BYTES:
                yield from self._encoded(batch)
                batch, size = [], 0
        yield from self._encoded(batch)

    def encode_with_spans(self, text: bytes, special: bool = False, name: str = "the text") -> Encoded:
        with self._reading(special):
            encoding = self._encoding(self._decoded(text, name))
        starts = np.flatnonzero(np.frombuffer(text, np.uint8) & 0xC0 != 0x80)  # of characters
        spans = np.append(starts, len(text))[np.array(encoding.offsets, np.int64).reshape(-1, 2)]
        return np.array(encoding.ids, np.int32), spans

    def encode_prompt(
        self, text: bytes, vocab_size: int, name: str = "the text", special: bool = True, start: bool = True
    ) -> np.ndarray:
        with self._reading(special):
            ids = self.encode(text, name)
        if (unknown := ids[ids >= vocab_size]).size:
            raise UserError(
                f"{name!r} holds {self._tokenizer.id_to_token(unknown[0])!r}, token {unknown[0]} of "
                f"data.tokenizer={self.name!r}; the model has only {vocab_size}."
            )
        begun = not start or not self._in_prompts or ids[:1].tolist() == [self.bos]
        return ids if begun else np.append(np.int32(self.bos), ids)

    def decode(self, ids) -> str:
        with self._call:
            return self._tokenizer.decode(np.asarray(ids).tolist(), skip_special_tokens=True)

    def writes(self, token: int) -> bool:
        return int(token) not in self._special and self._tokenizer.id_to_token(int(token)) is not None

    def spelling(self, token: int) -> bytes:
        token, name = int(token), self._tokenizer.id_to_token(int(token))
        if name is None or token in self._special:
            return (name or "").encode()
        if byte := _BYTE.fullmatch(name):
            return bytes([int(byte[1], 16)])
        before = self.encode(b"a").tolist()  # behind a text no decoder strips a space
        text = self.decode([*before, token])[len(self.decode(before)) :]
        if "\ufffd" in text and set(name) <= _byte_of().keys():
            return bytes(_byte_of()[letter] for letter in name)
        return text.encode()

    def dropped(self, text: bytes, special: bool = False) -> dict[str, int]:
        if self._kept is None:
            return {}
        text = text.decode()
        for token in self._special if special else ():
            text = text.replace(self._tokenizer.id_to_token(token), "")
        found = set(text)
        self._kept |= {character: self._keeps(character) for character in found - self._kept.keys()}
        return {character: text.count(character) for character in sorted(found) if not self._kept[character]}

    def _keeps(self, character: str) -> bool:
        """Whether tokens stand for all that the model is given of it (of whitespace, say, that may be nothing)."""
        encoding = self._encoding(character)
        if not self._added.isdisjoint(encoding.ids):
            return True
        normalizer, splitter = self._tokenizer.normalizer, self._tokenizer.pre_tokenizer
        text = normalizer.normalize_str(character) if normalizer else character
        given = "".join(piece for piece, _ in splitter.pre_tokenize_str(text)) if splitter else text
        suffix = self._tokenizer.model.end_of_word_suffix or ""
        return "".join(token.removesuffix(suffix) for token in encoding.tokens) == given

    @contextlib.contextmanager
    def _reading(self, special: bool):
        """A context in which the text of a special token is that token, if `special`."""
        self._tokenizer.encode_special_tokens = not special
        try:
            yield
        finally:
            self._tokenizer.encode_special_tokens = True

    def _encoding(self, text: str):
        with self._call:
            return self._tokenizer.encode(text, add_special_tokens=False)

    def _encoded(self, batch: list[str]) -> list[np.ndarray]:
        with self._call:
            encodings = self._tokenizer.encode_batch_fast(batch, add_special_tokens=False)
        return [np.array(encoding.ids, np.int32) for encoding in encodings]

    def _decoded(self, text: bytes, name: str) -> str:
        try:
            return text.decode()
        except UnicodeDecodeError as error:
            raise UserError(
                f"{name!r} is not UTF-8 at byte {error.start} (0x{text[error.start]:02x}), which "
                f"data.tokenizer={self.name!r} needs; data.tokenizer='bytes' takes any bytes."
            ) from error


def load(name_or_path: str, bos: str = "", eos: str = "") -> Tokenizer:
    """ "bytes", or a tokenizer.json or the folder of one.

    bos, eos: the text of its token that starts, and ends, a document; "" as special_tokens.py finds them.

    Raises:
      UserError: where there is no such file, it cannot be used, or it is not known what starts and ends its documents.
    """
    if name_or_path == "bytes":
        if bos or eos:
            raise UserError(
                f"data.bos={bos!r} and data.eos={eos!r} are for a tokenizer.json; data.tokenizer='bytes' has its own."
            )
        return ByteTokenizer()
    path = Path(os.path.abspath(os.path.expanduser(name_or_path)))
    if path.is_dir():
        refuse_sentence_piece(path, f"data.tokenizer={name_or_path!r}")
        path = path / "tokenizer.json"
    if not name_or_path or not path.is_file():
        raise UserError(
            f"data.tokenizer={name_or_path!r} is neither 'bytes' nor a tokenizer.json: there is no file {str(path)!r}."
        )
    return FileTokenizer(path, name_or_path, bos, eos)


def refuse_sentence_piece(folder: Path, said: str) -> None:
    """Raises UserError for a folder whose only tokenizer is SentencePiece's file; said: the setting that names it."""
    if (folder / SENTENCE_PIECE).is_file() and not (folder / "tokenizer.json").is_file():
        raise UserError(
            f"{said} has its tokenizer in {SENTENCE_PIECE} alone, which longctx does not read; "
            f"AutoTokenizer.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r}) of transformers writes "
            "the tokenizer.json that it needs."
        )


def of(config: DataConfig) -> Tokenizer:
    """The tokenizer of a run. Raises UserError as `load`."""
    return load(config.tokenizer, config.bos, config.eos)


def check_vocabulary(tokenizer: Tokenizer, vocab_size: int) -> None:
    """Raises UserError where the model's vocabulary is too small for the tokenizer."""
    if tokenizer.vocab_size > vocab_size:
        raise UserError(
            f"model.vocab_size={vocab_size} is smaller than the {tokenizer.vocab_size} tokens of "
            f"data.tokenizer={tokenizer.name!r}; {-(-tokenizer.vocab_size // 8) * 8} works, and a "
            "pretrained model needs the tokenizer that it came with."
        )


def losses(tokenizer: Tokenizer, texts: Sequence[bytes], special: bool = False) -> list[str]:
    """A line about the characters that the tokenizer drops, if there are any; special: as for dropped()."""
    total, of_texts = {}, 0
    for text in texts:
        found = tokenizer.dropped(text, special)
        of_texts += bool(found)
        for character, count in found.items():
            total[character] = total.get(character, 0) + count
    if not total:
        return []
    most = sorted(total, key=total.get, reverse=True)[:8]
    return [
        f"data.tokenizer={tokenizer.name!r} drops {sum(total.values()):,} characters of {of_texts:,} of "
        f"{len(texts):,} texts ({', '.join(map(repr, most))}{', ...' if len(total) > len(most) else ''}): "
        "it has no token for them, no unk token and no tokens for bytes."
    ]


def _drops_text(tokenizer, vocabulary: dict[str, int]) -> bool:
    """Whether text can vanish: BPE without an unk token passes over what it has no token for."""
    from tokenizers import models, pre_tokenizers

    model = tokenizer.model
    if not isinstance(model, models.BPE) or model.unk_token is not None:
        return False
    if model.byte_fallback:
        return not {f"<0x{byte:02X}>" for byte in range(256)} <= vocabulary.keys()
    steps = [step.__getstate__() for step in (tokenizer.normalizer, tokenizer.pre_tokenizer) if step]
    into_bytes = any(b'"ByteLevel"' in step for step in steps)
    return not (into_bytes and vocabulary.keys() >= {*pre_tokenizers.ByteLevel.alphabet()})


@functools.cache
def _byte_of() -> dict[str, int]:
    """{letter: the byte that it stands for in the tokens of byte-level BPE}, as GPT-2 has it: printable bytes of
    Latin-1 are themselves, the others the letters from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def _from_file(path: Path, field: str):
    import tokenizers

    try:
        _check_size(path, field)
        data = path.read_bytes()
        with RustCall(f"data.tokenizer={field!r}: {str(path)!r}"), panics_unreported():
            return tokenizers.Tokenizer.from_buffer(data)
    except OSError as error:
        raise UserError(f"data.tokenizer={field!r}: {str(path)!r} cannot be read: {error.strerror}.") from error
    except UserError:
        raise
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"data.tokenizer={field!r}: {str(path)!r} is not a tokenizer.json ({reason}); "
            "it must be a file that the `tokenizers` library saved."
        ) from error


def _check_size(path: Path, field: str) -> None:
    size, free = path.stat().st_size, sizes.free_memory()
    needed = size * MEMORY_OF_FILE
    if size > LARGEST_FILE:
        raise UserError(
            f"data.tokenizer={field!r}: {str(path)!r} has {sizes.readable(size)}; at most "
            f"{sizes.readable(LARGEST_FILE)} are read (longctx.data.tokenizers.LARGEST_FILE)."
        )
    if free is not None and needed > free:
        raise UserError(
            f"data.tokenizer={field!r}: {str(path)!r} takes about {sizes.readable(needed)} of memory, and "
            f"{sizes.readable(free)} are free."
        )
