"""The input pipeline: the rows of a stage, and the endless stream of batches over them.

Batch k of a stage is a function of (seed, stage, k) and the text alone: row numbers are shuffled globally, once per
epoch, and only then does each process cut its share out of the batch. So the number of processes, the prefetching and
any restart leave the global batches as they are, and the state of the stream is one number.
"""

from collections.abc import Callable, Sequence

import numpy as np

from longctx.config import DataConfig
from longctx.data.curriculum import Stage
from longctx.data.generated import api as generated
from longctx.data.packing import pack
from longctx.data.rows import PackedRows, TokenTable, joined, table
from longctx.data.sources import Document
from longctx.data.tokenizers import Tokenizer
from longctx.errors import UserError
from longctx.memory.sizes import free_memory, readable

Batch = dict[str, np.ndarray]

THREADS = 4  # a batch takes milliseconds: more threads would only take cores from the model
MOST_PREFETCH = 1024  # batches, all of which are begun before the first is there
TOKEN_BYTES = 20  # of a batch: what PackedRows.gather makes


def check(config: DataConfig, stages: Sequence[Stage], tokenizer: Tokenizer) -> None:
    """Raises UserError for a data.prefetch or an entry of data.generated that cannot work in these stages."""
    _check_prefetch(config.prefetch, max(stage.batch_tokens for stage in stages) * TOKEN_BYTES)
    generated.check(config.generated, stages, tokenizer)


def _check_prefetch(prefetch: int, batch_bytes: int) -> None:
    if not 0 <= prefetch <= MOST_PREFETCH:
        raise UserError(
            f"data.prefetch={prefetch} must be at least 0 and at most {MOST_PREFETCH:,}; 8 reads eight batches ahead."
        )
    free = free_memory()
    if free is not None and prefetch * batch_bytes > free:
        raise UserError(
            f"data.prefetch={prefetch} holds as many batches of {readable(batch_bytes)}, and "
            f"{readable(free)} of memory are free; {free // batch_bytes} would fit, 0 reads none ahead."
        )


def stage_rows(
    text: TokenTable,
    documents: Sequence[Document],
    tokenizer: Tokenizer,
    stage: Stage,
    config: DataConfig,
    seed: int = 0,
) -> PackedRows:
    """All training documents packed at the stage's length, with the documents of data.generated among them.

    text: the table of `documents`.
    """
    tasks = generated.parse(config.generated)
    total = text.inputs.sum() / (1 - sum(task.share for task in tasks.values()))
    for name, task in tasks.items():
        rng = np.random.default_rng(_seed_sequence(seed, stage, name))
        made = task.training_documents(rng, tokenizer, int(task.share * total), stage.seq_len, documents)
        text = joined(text, table(made, tokenizer))
    return PackedRows(text, pack(text.inputs, stage.seq_len), tokenizer.pad)


class BatchStream:
    """Iterates for ever over the batches of a stage: PackedRows.gather of the rows that belong to this process.

    Process p of P gets rows p*B/P .. (p+1)*B/P of every global batch of B rows. (Processes that hold the same rows,
    such as those along the context axis, share one p; `transform` then cuts out their columns.) `transform` maps a
    batch to what the iterator returns: the place for a layout's permutation. It must be a function of the batch alone.
    `arrange` puts the numbers of a whole batch's rows into the order in which processes and devices share them.

    get_state() is small and made for JSON; it describes the batch that comes next, whatever was prefetched.
    """

    def __init__(
        self,
        rows: PackedRows,
        stage: Stage,
        seed: int = 0,
        *,
        prefetch: int = 8,
        process_index: int = 0,
        process_count: int = 1,
        transform: Callable[[Batch], Batch] | None = None,
        arrange: Callable[[np.ndarray], np.ndarray] | None = None,
    ):
        import grain

        if stage.batch_size % process_count or not 0 <= process_index < process_count:
            raise ValueError(f"Process {process_index} of {process_count} has no even part of {stage.batch_size} rows.")
        share = stage.batch_size // process_count
        own_rows = slice(process_index * share, (process_index + 1) * share)

        def materialise(numbers: np.ndarray) -> Batch:
            batch = rows.gather((arrange(numbers) if arrange else numbers)[own_rows])
            return transform(batch) if transform else batch

        self._stage, self._text = stage, rows.fingerprint
        shuffle_seed = int(_seed_sequence(seed, stage, "shuffle").generate_state(1)[0])
        numbers = grain.MapDataset.range(len(rows)).shuffle(seed=shuffle_seed).repeat()  # reshuffled every epoch
        batches = numbers.batch(stage.batch_size, drop_remainder=True)  # else len() overflows at B = 1
        options = grain.ReadOptions(num_threads=min(prefetch, THREADS), prefetch_buffer_size=prefetch)
        self._iterator = iter(batches.map(materialise).to_iter_dataset(options))

    def __iter__(self) -> "BatchStream":
        return self

    def __next__(self) -> Batch:
        return next(self._iterator)

    def get_state(self) -> dict:
        return {"stage": self._stage.index, "text": self._text, "iterator": self._iterator.get_state()}

    def set_state(self, state: dict) -> None:
        """Continues where get_state() was called. Raises UserError where the training text is not what it was then."""
        if state["stage"] != self._stage.index:
            raise ValueError(f"The state of stage {state['stage']} does not fit a stream of stage {self._stage.index}.")
        if state["text"] != self._text:
            raise UserError(
                f"data.path: not the text that this run was trained on (checksum {self._text:08x}, "
                f"was {state['text']:08x}); bring the old files back, or start in a new --workdir."
            )
        self._iterator.set_state(state["iterator"])

    def close(self) -> None:
        """Stops reading ahead. The stream cannot be used after that."""
        self._iterator.close()


def _seed_sequence(seed: int, stage: Stage, purpose: str) -> np.random.SeedSequence:
    return np.random.SeedSequence([seed % 2**64, stage.index, *purpose.encode()])
