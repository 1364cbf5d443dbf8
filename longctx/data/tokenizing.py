"""Text of any size to a store of tokens, by several processes and in bounded memory. Free of jax and grain.

The files are dealt into units of about UNIT bytes: a part of a large .jsonl, a large file of another kind, or several
small ones. A process makes a unit to a file in the folder "parts" of the store; a part that is there from an earlier
call, of the same bytes and settings, is not made again. In the end the parts are joined in the order of the files, so
the store does not depend on how many processes there were, or on interruptions.
"""

import concurrent.futures
import functools
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from longctx import locks
from longctx.config import DataConfig
from longctx.data import reading, rows, sources, store, tokenizers
from longctx.data.document import Document
from longctx.data.folders import File
from longctx.data.formats import api as formats
from longctx.data.left_out import LeftOut
from longctx.data.span import spans
from longctx.data.tokenizers import Tokenizer
from longctx.errors import UserError

UNIT = 64 << 20  # bytes of files that one process takes at a time
CHUNK = 4 << 20  # bytes of text that are tokenised at a time
PARTS = "parts"  # the folder of what is finished
# settings that change the tokens of a file
SETTINGS = ("tokenizer", "bos", "eos", "records", "text_field", "bad", "token_dtype")


class Unit(NamedTuple):
    """Files, or one part of a file, that one process tokenises."""

    files: tuple[File, ...]

    @property
    def bytes(self) -> int:
        return sum(file.span.end - file.span.start if file.span else file.size for file in self.files)


class Made(NamedTuple):
    """What was made of a unit: bytes that were read, documents, tokens; whether it was there already."""

    bytes: int
    documents: int
    tokens: int
    was_there: bool


def units(files: Sequence[File], size: int = UNIT) -> Iterator[Unit]:
    """Yields all files in their order, dealt into units of about `size` bytes."""
    some, taken = [], 0
    for file in files:
        if some and taken + file.size > size:
            yield Unit(tuple(some))
            some, taken = [], 0
        if file.size > size and formats.cuts(file.path):
            yield from (Unit((file._replace(span=span),)) for span in spans(file.path, size))
        else:
            some, taken = [*some, file], taken + file.size
    if some:
        yield Unit(tuple(some))


def tokenize(config: DataConfig, folder, processes: int, said: Callable[[Made, int], None]) -> store.Store:
    """Makes a store of the text that config.path names, and opens it.

    processes: how many work at once. said: told of each unit that is there, and of the number of all units.

    Raises UserError for a folder that holds a store, or that another process writes; for a text that sources.load would
    refuse, but for its size; and where a process dies, such as for want of memory.
    """
    folder = Path(folder)
    if config.path in sources.LIBRARY:
        raise UserError(f"data.path={config.path!r} is small, and needs no store; a file or folder of yours may.")
    if store.is_store(folder):
        raise UserError(f"{str(folder)!r} holds a store already; delete it to make it again, or choose another folder.")
    tokenizer, left = tokenizers.of(config), LeftOut()
    files = reading.files_of(reading.root_of(config.path), config, left)
    with locks.take(folder, repr(str(folder)), "wait for it, or choose another folder"):
        parts = folder / PARTS
        parts.mkdir(exist_ok=True)
        todo = list(units(files))
        work = functools.partial(_make, config, parts, store.identity(tokenizer))
        made = [path for path, _ in _in_processes(work, config, todo, processes, said)]
        for path in made:
            left.add(_left_out(path))
        notes = [f"left out of data.path={config.path!r}: {left}"] if str(left) else []
        about = {"path": config.path, "files": len(files), "bytes": sum(file.size for file in files)}
        store.write(folder, (_part(path) for path in made), tokenizer, notes, about)
        shutil.rmtree(parts)
    return store.open_store(folder, tokenizer)


def _in_processes(work, config: DataConfig, todo: list[Unit], processes: int, said) -> list[tuple[Path, Made]]:
    """work(unit) of all units, in their order."""
    if processes == 1:
        _begin(config, 1)
        done = []
        for unit in todo:
            done.append(work(unit))
            said(done[-1][1], len(todo))
        return done
    context = multiprocessing.get_context("spawn")  # no fork: tokenizers have threads
    with concurrent.futures.ProcessPoolExecutor(processes, context, _begin, (config, processes)) as pool:
        waiting = [pool.submit(work, unit) for unit in todo]
        try:
            for future in concurrent.futures.as_completed(waiting):
                said(future.result()[1], len(todo))
        except BrokenProcessPool as error:
            raise UserError(
                f"a process that tokenises died, perhaps for want of memory; fewer than {processes} processes take "
                "less, and the same command goes on with what is finished."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)
        return [future.result() for future in waiting]


_tokenizer: Tokenizer | None = None  # of a process that tokenises


def _begin(config: DataConfig, processes: int) -> None:
    """Prepares a process: its tokenizer, in one thread where there are several processes."""
    global _tokenizer
    if processes > 1:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent says when it ends
    _tokenizer = tokenizers.of(config)


def _make(config: DataConfig, parts: Path, of_tokenizer: dict, unit: Unit) -> tuple[Path, Made]:
    """The file with the tokens of a unit, and what it holds."""
    tokenizer = _tokenizer
    assert tokenizer
    settings = {name: getattr(config, name) for name in SETTINGS} | of_tokenizer
    files = [(file.path, file.size, file.modified, file.span) for file in unit.files]
    path = parts / f"{hashlib.sha256(json.dumps([settings, files]).encode()).hexdigest()[:32]}.npz"
    if path.is_file():
        with np.load(path) as content:
            return path, Made(unit.bytes, len(content["ends"]), int(content["ends"][-1:].sum()), True)
    left, names, ids, counts, lengths = LeftOut(), [], [], [], []
    documents = reading.documents_of(unit.files, config, config.tokenizer == "bytes", left, lambda: tokenizer)
    for chunk in _chunks(documents):
        names += [document.name for document in chunk]
        table = rows.tokenize(chunk, tokenizer)
        ids.append(table.ids)
        lengths.append(table.inputs + 1)
        counts.append(np.ones(len(table.ids), bool) if table.counts is None else table.counts)
    ends = np.cumsum(np.concatenate([*lengths, np.zeros(0, np.int64)]), dtype=np.int64)
    joined = "\0".join(names).encode("utf-8", "surrogateescape")
    content = {"ids": np.concatenate([*ids, np.zeros(0, np.uint8)]), "ends": ends}
    content["names"] = np.frombuffer(joined, np.uint8)
    content["left"] = np.frombuffer(json.dumps([left.empty, left.bad, left.first_bad]).encode(), np.uint8)
    if not (marks := np.concatenate([*counts, np.zeros(0, bool)])).all():
        content["counts"] = marks
    _save(path, content)
    return path, Made(unit.bytes, len(ends), int(ends[-1:].sum()), False)


def _save(path: Path, content: dict[str, Any]) -> None:
    """Writes a file of arrays, which is whole or not there."""
    unfinished = path.with_suffix(".unfinished")
    with open(unfinished, "wb") as file:
        np.savez(file, **content)
    os.replace(unfinished, path)


def _chunks(documents: Iterator[Document]) -> Iterator[list[Document]]:
    """Yields the documents, some at a time."""
    some, size = [], 0
    for document in documents:
        some.append(document)
        size += len(document.text) if document.ids is None else document.ids.nbytes
        if size >= CHUNK:
            yield some
            some, size = [], 0
    if some:
        yield some


def _part(path: Path) -> store.Part:
    """The documents in a file that _make has made."""
    with np.load(path) as content:
        ends = content["ends"]
        names = content["names"].tobytes().decode("utf-8", "surrogateescape").split("\0") if len(ends) else []
        return store.Part(content["ids"], ends, names, content["counts"] if "counts" in content else None)


def _left_out(path: Path) -> LeftOut:
    with np.load(path) as content:
        empty, bad, first_bad = json.loads(content["left"].tobytes())
    return LeftOut(empty=empty, bad=bad, first_bad=first_bad)
