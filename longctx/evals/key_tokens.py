"""Key tokens of a text: those that a long context makes far easier to predict than a short one (LongPPL, arXiv
2410.23771). An evaluator, a model, finds them; as stretches of bytes they serve models with other tokenizers."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from longctx import caches, json_files
from longctx.data import tokenizers
from longctx.errors import UserError
from longctx.evals import batches, results
from longctx.evals.batches import Piece

GAIN = 2.0  # nats that the long context must save, at least
MOST = 2.0  # nats of a key token with the long context, at most
ROW_UNIT = 128  # tokens: rows of texts of about one length have one shape
SELF = "self: circular"  # the name of a model that finds the key tokens that it is judged by

Stretches = list[list[int]]


class Evaluator(NamedTuple):
    """What finds key tokens.

    Attributes:
      name: for reports.
      predictor, tokenizer: see longctx.evals.task.Task.
      reach: the tokens that it is made for, 0 where that is not known.
      checksum: tells it from others; "" where what it finds is not to be kept.
    """

    name: str
    predictor: Any
    tokenizer: tokenizers.Tokenizer
    reach: int = 0
    checksum: str = ""


def check(evaluator: str) -> None:
    """Raises UserError unless `evaluator` is a model of Hugging Face, or "", with a tokenizer."""
    if not evaluator:
        return
    from longctx.hf import folder, sources

    source, said = sources.folder(evaluator, "eval.evaluator"), f"eval.evaluator={evaluator!r}"
    folder.model_config(source)
    tokenizers.refuse_sentence_piece(source, said)
    if not (source / "tokenizer.json").is_file():
        raise UserError(f"{said} has no tokenizer.json, and key tokens are found with the evaluator's own tokenizer.")


def load(evaluator: str, mesh) -> Evaluator:
    """A model of Hugging Face on a mesh; see EvalConfig.evaluator. Raises UserError as hf.load does."""
    import jax

    from longctx import hf
    from longctx.config import Config, MeshConfig
    from longctx.evals.predictor import predictor
    from longctx.hf import rope, sources

    source = sources.folder(evaluator, "eval.evaluator")
    tokenizer, model = tokenizers.load(str(source)), hf.load(source, mesh=mesh)
    tokenizers.check_vocabulary(tokenizer, model.config.vocab_size)
    config = Config(model=model.config, mesh=MeshConfig(**{axis: mesh.shape[axis] for axis in mesh.axis_names}))
    # several processes would have to find the same files: one that reads by itself waits for the others for ever
    checksum = sources.checksum(source) if jax.process_count() == 1 else ""
    read = predictor(config, mesh, model.params, model.config.rope)
    return Evaluator(source.name, read, tokenizer, rope.stretched(model.config.rope), checksum)


def find(evaluator: Evaluator, texts: Sequence[bytes], context: int, stride: int) -> list[Stretches]:
    """For each text the stretches of bytes [start, end) that its key tokens stand for, in order and apart.

    A token is key where the loss with all of the text before it is below MOST, and with little of it more than GAIN
    above that. Little of it: windows start every `stride` tokens and hold `context` + `stride`, of which the last
    `stride` are judged; so the first `context` tokens, the start marker among them, are never key. What an evaluator
    with a checksum found is kept in the user's cache folder.

    Raises UserError for a text that is longer than the evaluator is made for.
    """
    found = [_kept(evaluator, text, context, stride) for text in texts]
    missing = [i for i, stretches in enumerate(found) if stretches is None]
    for i, stretches in zip(missing, _find(evaluator, [texts[i] for i in missing], context, stride), strict=True):
        found[i] = stretches
        _keep(evaluator, texts[i], context, stride, stretches)
    return [stretches or [] for stretches in found]


def _find(evaluator: Evaluator, texts: list[bytes], context: int, stride: int) -> list[Stretches]:
    tokenizer = evaluator.tokenizer
    encoded = [tokenizer.encode_with_spans(text) for text in texts]
    rows = [np.append(np.int32(tokenizer.bos), ids) for ids, _ in encoded]
    longest = max((len(ids) - 1 for ids in rows), default=0)
    if 0 < evaluator.reach < longest:
        raise UserError(
            f"eval.evaluator, {evaluator.name!r}, is made for {evaluator.reach:,} tokens, and the text has {longest:,}"
        )
    full = [[Piece(ids[:-1], ids[1:], np.arange(min(context, len(ids)) - 1, len(ids) - 1))] for ids in rows]
    length = max(1, -(-longest // ROW_UNIT)) * ROW_UNIT
    long_losses = batches.score(evaluator.predictor, full, length, tokenizer.pad)
    windows = [_windows(ids, context, stride) for ids in rows]
    short = [[window] for own in windows for window in own]
    scored = iter(batches.score(evaluator.predictor, short, context + stride, tokenizer.pad))
    found = []
    for (_, spans), own, (long,) in zip(encoded, windows, long_losses, strict=True):
        with_little = np.concatenate([np.zeros(0), *(next(scored)[0].nll[window.asked] for window in own)])
        with_all = long.nll[context - 1 :]
        key = (with_little - with_all > GAIN) & (with_all < MOST)
        found.append(merged(spans[context - 1 :][key]))  # spans have no start marker: token i of the row is span i - 1
    return found


def _windows(ids: np.ndarray, context: int, stride: int) -> list[Piece]:
    """The windows of a row of tokens; asked for are those that no window before has judged."""
    pieces = []
    for start in range(0, len(ids) - context, stride):
        end = min(start + context + stride, len(ids))
        pieces.append(Piece(ids[start : end - 1], ids[start + 1 : end], np.arange(start + context - end, 0)))
    return pieces


def merged(spans: np.ndarray) -> Stretches:
    """The stretches that spans [n, 2] in order of their starts cover; those that touch are one."""
    found: Stretches = []
    for start, end in spans.tolist():
        if found and start <= found[-1][1]:
            found[-1][1] = max(end, found[-1][1])
        else:
            found.append([start, end])
    return found


def inside(spans: np.ndarray, stretches: Stretches) -> np.ndarray:
    """bool[n]: which of the spans [n, 2] lie in one of the stretches from end to end."""
    starts, ends = np.array(stretches, np.int64).reshape(-1, 2).T
    last = np.searchsorted(starts, spans[:, 0], side="right") - 1
    return (last >= 0) & (spans[:, 1] <= np.append(ends, 0)[last])


# ---- what was found before, by the hash of the text ------------------------------------------------------------------


def _path(evaluator: Evaluator, text: bytes, context: int, stride: int):
    what = json.dumps([evaluator.checksum, evaluator.tokenizer.bos, context, stride, GAIN, MOST])
    return caches.folder("longppl") / f"{hashlib.sha256(what.encode() + text).hexdigest()}.json"


def _kept(evaluator: Evaluator, text: bytes, context: int, stride: int) -> Stretches | None:
    """What is kept of a text; None for nothing, or nothing that can be read."""
    path = _path(evaluator, text, context, stride)
    if not evaluator.checksum or not path.is_file():
        return None
    try:
        stretches = json_files.read(path)
    except (OSError, ValueError):  # written by half, or not ours: it is found again
        return None
    return stretches if results.fits(stretches, [[int]]) and all(len(pair) == 2 for pair in stretches) else None


def _keep(evaluator: Evaluator, text: bytes, context: int, stride: int, stretches: Stretches) -> None:
    if not evaluator.checksum:
        return
    path = _path(evaluator, text, context, stride)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".new")
        new.write_text(json.dumps(stretches))
        new.replace(path)
    except OSError:  # a home that cannot be written: it is found again
        return
