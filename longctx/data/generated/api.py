"""Generated training data by name: the entries of data.generated, such as "passkey(0.5)". Free of jax.

To add a task: a file here with a subclass of generated.task.Generated, and a line in GENERATED. It is then a setting,
--config.data.generated="('passkey(0.5)', 'mine(0.1)')", and its documents are packed among those of the text.
"""

from collections.abc import Sequence

from longctx.config import DataConfig
from longctx.data import texts
from longctx.data.curriculum import Stage
from longctx.data.generated.classes import Classes
from longctx.data.generated.copying import Copying
from longctx.data.generated.fill_in_the_middle import FillInTheMiddle
from longctx.data.generated.functions import Functions
from longctx.data.generated.key_value import KeyValue
from longctx.data.generated.paragraphs import Keywords, Paragraphs
from longctx.data.generated.passkey import Passkey
from longctx.data.generated.repetitions import Repetitions
from longctx.data.generated.retrieval import Retrieval
from longctx.data.generated.sorting import Sorting
from longctx.data.generated.task import Generated
from longctx.data.generated.traces import Traces
from longctx.data.tokenizers import Tokenizer
from longctx.errors import UserError, unknown_name
from longctx.parsing import parse_call

GENERATED: dict[str, type[Generated]] = {
    "passkey": Passkey,
    "copying": Copying,
    "retrieval": Retrieval,
    "key_value": KeyValue,
    "fill_in_the_middle": FillInTheMiddle,
    "paragraphs": Paragraphs,
    "keywords": Keywords,
    "traces": Traces,
    "classes": Classes,
    "functions": Functions,
    "sorting": Sorting,
    "repetitions": Repetitions,
}

LOSSES: dict[str, bool] = {"all": False, "answers": True}  # by name: whether the answers alone count


def parse(entries: Sequence[str]) -> dict[str, Generated]:
    """The task of each entry of data.generated, by name. Raises UserError for what is no task, or named twice."""
    tasks = {}
    for i, text in enumerate(entries):
        field = f"data.generated[{i}]"
        kind, numbers = parse_call(field, text, GENERATED)
        name = text.partition("(")[0].strip()
        if name in tasks:
            raise UserError(f"{field}={text!r} names {name} again; give it one share.")
        tasks[name] = kind(*numbers)
        if tasks[name].share >= 1:
            raise UserError(
                f"{field}={text!r} must be a share above 0 and below 1; {name}(0.1) is a tenth of the tokens."
            )
    return tasks


def answers_alone(name: str) -> bool:
    """Whether the tokens of answers alone count in the loss of generated documents, as data.generated_loss says.

    "all" is the default: a problem is text like any other, and its form is learnt with it. "answers" is for tasks whose
    problems are noise, such as UUIDs, which cost capacity and hide the answers in the mean; the shares of the tasks in
    the rows stay, so that the same number of rows has fewer tokens that count. Raises UserError for another name.
    """
    if name not in LOSSES:
        raise unknown_name("data.generated_loss", name, LOSSES)
    return LOSSES[name]


def source_names(config: DataConfig) -> tuple[str, ...]:
    """The names of the sources of training rows, in the order of the Mixture that pipeline.stage_rows makes."""
    return (*texts.named(config), *parse(config.generated))


def check(entries: Sequence[str], stages: Sequence[Stage], tokenizer: Tokenizer) -> None:
    """Raises UserError for tasks in data.generated that cannot be, or not in the rows of these stages."""
    tasks = parse(entries)
    if sum(task.share for task in tasks.values()) >= 1:
        raise UserError(
            f"data.generated={tuple(entries)} must leave room for the text; together the shares must be below 1."
        )
    for i, (name, task) in enumerate(tasks.items()):
        needed = task.shortest(tokenizer)
        for stage in stages:
            if stage.seq_len < needed:
                raise UserError(
                    f"data.generated[{i}]={entries[i]!r} needs stages of at least {needed} tokens, and "
                    f"stages[{stage.index}].seq_len={stage.seq_len}; leave {name} out or make the rows longer."
                )
