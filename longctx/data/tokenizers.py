"""Text to token ids: plain bytes, or a local tokenizer.json."""
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from longctx.errors import UserError

# The special tokens that published tokenizers use, the most specific ones first.
BOS = ("<|begin_of_text|>", "<s>", "<bos>", "[BOS]", "<|startoftext|>", "<｜begin▁of▁sentence｜>", "[CLS]")
EOS = ("<|end_of_text|>", "</s>", "<eos>", "[EOS]", "<|endoftext|>", "<｜end▁of▁sentence｜>", "[SEP]", "<|im_end|>")
PAD = ("<pad>", "[PAD]", "<|pad|>", "<|finetune_right_pad_id|>", "<｜▁pad▁｜>")

BATCH_BYTES = 1 << 22       # text per call into `tokenizers`: its results take many times the memory of the ids


class Tokenizer(Protocol):
    """Ids are below vocab_size. bos starts a document, eos ends it, pad fills rows (and is never predicted)."""
    name: str
    vocab_size: int
    bos: int
    eos: int
    pad: int

    def encode(self, text: bytes, name: str = "the text") -> np.ndarray:
        """int32[n], without bos and eos. Raises UserError with `name` for text that is not UTF-8, if that matters."""

    def encode_batch(self, texts: Sequence[bytes], names: Sequence[str]) -> Iterator[np.ndarray]:
        """encode() of each text, in order."""

    def decode(self, ids) -> str:
        """The text of ids, special tokens left out. Bytes that are not UTF-8 become U+FFFD."""


class ByteTokenizer:
    """The 256 byte values as they are, then BOS 256, EOS 257, PAD 258. Takes any bytes."""
    name = "bytes"
    vocab_size, bos, eos, pad = 259, 256, 257, 258

    def encode(self, text: bytes, name: str = "the text") -> np.ndarray:
        return np.frombuffer(text, np.uint8).astype(np.int32)

    def encode_batch(self, texts: Sequence[bytes], names: Sequence[str]) -> Iterator[np.ndarray]:
        return map(self.encode, texts, names)

    def decode(self, ids) -> str:
        ids = np.asarray(ids)
        return ids[ids < 256].astype(np.uint8).tobytes().decode("utf-8", "replace")


class FileTokenizer:
    """A tokenizer.json in the format of the `tokenizers` library.

    Truncation, padding and automatic special tokens that the file asks for are off; the text of a special token inside
    a document is text. A tokenizer without BOS starts documents with EOS, as GPT-2 and Qwen do; one without PAD pads
    with EOS (padding has weight 0 and segment 0: its id is never looked at). No ids are added.
    """

    def __init__(self, path: Path, field: str):
        self.name = field
        self._tokenizer = _from_file(path, field)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        self.vocab_size = max(vocabulary.values(), default=-1) + 1      # ids can have gaps
        added = {token.content: i for i, token in self._tokenizer.get_added_tokens_decoder().items()}
        eos = _first(added, EOS)
        if eos is None:
            raise UserError(f"data.tokenizer={field!r} has no end-of-document token; one of {' '.join(EOS)} is needed.")
        self.eos = eos
        self.bos = _first(added, BOS, eos)
        self.pad = _first(added, PAD, eos)

    def encode(self, text: bytes, name: str = "the text") -> np.ndarray:
        ids = self._tokenizer.encode(self._decoded(text, name), add_special_tokens=False).ids
        return np.array(ids, np.int32)

    def encode_batch(self, texts: Sequence[bytes], names: Sequence[str]) -> Iterator[np.ndarray]:
        batch, size = [], 0
        for text, name in zip(texts, names, strict=True):
            batch.append(self._decoded(text, name))
            size += len(text)
            if size >= BATCH_BYTES:
                yield from self._encoded(batch)
                batch, size = [], 0
        yield from self._encoded(batch)

    def decode(self, ids) -> str:
        return self._tokenizer.decode(np.asarray(ids).tolist(), skip_special_tokens=True)

    def _encoded(self, batch: list[str]) -> list[np.ndarray]:
        return [np.array(e.ids, np.int32) for e in self._tokenizer.encode_batch_fast(batch, add_special_tokens=False)]

    def _decoded(self, text: bytes, name: str) -> str:
        try:
            return text.decode()
        except UnicodeDecodeError as error:
            raise UserError(f"{name!r} is not UTF-8 at byte {error.start} (0x{text[error.start]:02x}), which "
                            f"data.tokenizer={self.name!r} needs; data.tokenizer='bytes' takes any bytes.") from error


def load(name_or_path: str) -> Tokenizer:
    """ "bytes", or a tokenizer.json or the folder of one. Raises UserError where there is none or it cannot be used."""
    if name_or_path == "bytes":
        return ByteTokenizer()
    path = Path(os.path.abspath(os.path.expanduser(name_or_path)))
    if path.is_dir():
        path = path / "tokenizer.json"
    if not name_or_path or not path.is_file():
        raise UserError(f"data.tokenizer={name_or_path!r} is neither 'bytes' nor a tokenizer.json: "
                        f"there is no file {str(path)!r}.")
    return FileTokenizer(path, name_or_path)


def check_vocabulary(tokenizer: Tokenizer, vocab_size: int) -> None:
    """Raises UserError where the model's vocabulary is too small for the tokenizer."""
    if tokenizer.vocab_size > vocab_size:
        raise UserError(f"model.vocab_size={vocab_size} is smaller than the {tokenizer.vocab_size} tokens of "
                        f"data.tokenizer={tokenizer.name!r}; {-(-tokenizer.vocab_size // 8) * 8} works.")


def _from_file(path: Path, field: str):
    import tokenizers
    try:
        data = path.read_bytes()
        json.loads(data)        # `tokenizers` says less about a file that is not JSON
        return tokenizers.Tokenizer.from_buffer(data)
    except OSError as error:
        raise UserError(f"data.tokenizer={field!r}: {str(path)!r} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"data.tokenizer={field!r}: {str(path)!r} is not a tokenizer.json ({reason}); "
                        "it must be a file that the `tokenizers` library saved.") from error


def _first(added: dict[str, int], names: Sequence[str], otherwise: int | None = None) -> int | None:
    return next((added[name] for name in names if name in added), otherwise)
