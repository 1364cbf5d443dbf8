"""Documents from files, split into training and held-out ones by file. Free of jax and grain: errors come at once."""
import dataclasses
import difflib
import gzip
import hashlib
import json
import math
import os
import sysconfig
import zlib
from collections.abc import Iterator
from pathlib import Path

from longctx.config import DataConfig
from longctx.errors import UserError

WHOLE_FILE = (".txt", ".md", ".py")         # one document per file
BY_LINE = (".jsonl",)                       # one document per line
KNOWN = WHOLE_FILE + BY_LINE                # each also with .gz

# Parts of the standard library that are not code: help texts, character tables, and what others installed into it.
STDLIB_SKIP = frozenset({"site-packages", "dist-packages", "__pycache__", "pydoc_data", "encodings", "idlelib"})


@dataclasses.dataclass(frozen=True)
class Document:
    """One text: its name (the path below data.path; for .jsonl with :line) and its bytes, never empty."""
    name: str
    text: bytes


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Training and held-out documents, each sorted by file name, from `root`. All of the text is held in memory."""
    root: str
    train: tuple[Document, ...]
    held_out: tuple[Document, ...]


def load(config: DataConfig) -> Corpus:
    """Reads config.path and splits its documents by the md5 of their names: equal names fall on the same side anywhere.

    "stdlib" is the library of the running Python: its .py files in UTF-8, without installed packages and tables. (A
    folder of that name is "./stdlib".) Any other path is a file, or a folder that is searched recursively, hidden
    folders excepted. A source of a single document is cut in two: its last `holdout` share is held out.

    Raises UserError for a path that is missing, holds no text or cannot be read, and for a holdout without a split.
    """
    if not 0 < config.holdout < 1:
        raise UserError(f"data.holdout={config.holdout} must be between 0 and 1; 0.1 keeps a tenth for evaluation.")
    if config.path == "stdlib":
        root = Path(sysconfig.get_path("stdlib"))
        documents = list(_stdlib(root))
    else:
        root = Path(os.path.abspath(os.path.expanduser(config.path)))
        documents = list(_documents(root, config))
    if not documents:
        raise UserError(f"data.path={config.path!r} holds no text: every file in {str(root)!r} is empty.")
    return Corpus(str(root), *_split(documents, config.holdout))


def _stdlib(root: Path) -> Iterator[Document]:
    for name in _walk(root, STDLIB_SKIP):
        if name.endswith(".py"):
            text = _read(root / name)
            # Some of the library's own tests are in other encodings on purpose; a tokenizer.json could not take them.
            if text.strip() and _is_utf8(text):
                yield Document(name, text)


def _documents(root: Path, config: DataConfig) -> Iterator[Document]:
    known = f"Known are {' '.join(KNOWN)}, each also with .gz."
    if not config.path or not os.path.exists(root):
        raise UserError(f"data.path={config.path!r} does not exist: there is no {str(root)!r}.{_near(root)}")
    if root.is_dir():
        names = [name for name in _walk(root, frozenset({"__pycache__"})) if _extension(name) in KNOWN]
        if not names:
            raise UserError(f"data.path={config.path!r}: the folder {str(root)!r} has no text files. {known}")
        folder = root
    else:
        folder, names = root.parent, [root.name]
        if _extension(root.name) not in KNOWN:
            raise UserError(f"data.path={config.path!r} has an unknown extension. {known}")
    for name in names:
        text = _read(folder / name)
        if _extension(name) in BY_LINE:
            yield from _lines(folder / name, name, text, config.text_field)
        elif text.strip():
            yield Document(name, text)


def _near(root: Path) -> str:
    """A hint at a neighbour of almost the same name."""
    if not root.parent.is_dir() or not os.access(root.parent, os.R_OK):
        return ""
    near = difflib.get_close_matches(root.name, os.listdir(root.parent), n=1)
    return f" Did you mean {str(root.parent / near[0])!r}?" if near else ""


def _walk(root: Path, skip: frozenset[str]) -> list[str]:
    """The relative names of all files below root, sorted; without hidden folders and those named in skip."""
    names = []
    for folder, folders, files in os.walk(root, onerror=_refuse):
        folders[:] = [name for name in folders if name not in skip and not name.startswith(".")]
        names += [Path(folder, name).relative_to(root).as_posix() for name in files]
    return sorted(names)


def _refuse(error: OSError):
    raise UserError(f"data.path: {str(error.filename)!r} cannot be read: {error.strerror}.") from error


def _extension(name: str) -> str:
    """The extension in lower case, that of the compressed file for .gz."""
    name = name.lower()
    return Path(name.removesuffix(".gz")).suffix


def _read(path: Path) -> bytes:
    if path.exists() and not path.is_file():        # opening a pipe would wait for ever
        raise UserError(f"data.path: {str(path)!r} cannot be read: it is not a regular file.")
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if path.name.lower().endswith(".gz") else data
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"data.path: {str(path)!r} is not a whole gzip file ({error}); compress it again.") from error
    except OSError as error:
        raise UserError(f"data.path: {str(path)!r} cannot be read: {error.strerror}.") from error


def _lines(path: Path, name: str, data: bytes, field: str) -> Iterator[Document]:
    """The documents of a .jsonl file; blank lines and empty texts are passed over."""
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        place = f"line {number} of {str(path)!r}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:       # ValueError: not JSON, or not UTF-8
            raise UserError(f"data.path: {place} is not JSON ({error}); every line must be one object.") from error
        if not isinstance(record, dict):
            raise UserError(f"data.path: {place} is a JSON {type(record).__name__}; every line must be one object.")
        if not isinstance(record.get(field), str):
            strings = [key for key, value in record.items() if isinstance(value, str)]
            raise UserError(f"data.text_field={field!r} is not text in {place}; "
                            f"the text fields there: {', '.join(map(repr, strings)) or 'none'}.")
        text = record[field].encode("utf-8", "surrogatepass")
        if text.strip():
            yield Document(f"{name}:{number}", text)


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _split(documents: list[Document], holdout: float) -> tuple[tuple[Document, ...], tuple[Document, ...]]:
    if len(documents) == 1:
        return _cut(documents[0], holdout)
    places = [_place(document.name) for document in documents]      # a document is held out if its place < holdout
    train = tuple(d for d, place in zip(documents, places, strict=True) if place >= holdout)
    held_out = tuple(d for d, place in zip(documents, places, strict=True) if place < holdout)
    given = f"data.holdout={holdout} holds out"
    if not held_out:
        works = math.ceil(1000 * min(places) + 1) / 1000
        raise UserError(f"{given} none of the {len(documents)} documents; {works} holds out one.")
    if not train:
        works = math.floor(1000 * max(places)) / 1000
        raise UserError(f"{given} all of the {len(documents)} documents; {works} leaves one to train on.")
    return train, held_out


def _place(name: str) -> float:
    """A number in [0, 1) that depends on the name only."""
    digest = hashlib.md5(name.encode("utf-8", "surrogateescape"), usedforsecurity=False).digest()
    return int.from_bytes(digest[:4]) / 2**32


def _cut(document: Document, holdout: float) -> tuple[tuple[Document], tuple[Document]]:
    text = document.text
    if len(text) < 2:
        raise UserError("data.path holds a single byte of text; training and evaluation need at least one each.")
    at = min(max(round(len(text) * (1 - holdout)), 1), len(text) - 1)
    while at > 1 and text[at] & 0xC0 == 0x80:       # inside a UTF-8 character
        at -= 1
    return (Document(f"{document.name} (start)", text[:at]),), (Document(f"{document.name} (end)", text[at:]),)
