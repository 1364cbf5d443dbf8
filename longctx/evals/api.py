"""The evaluation tasks by name; longctx.evals.task.Task says what one is.

To add one: a file in longctx/evals/tasks and a line in EVALS. It is then measured where eval.tasks names it, and shown
in the report.
"""

from longctx.config import EvalConfig
from longctx.errors import UserError, unknown_name
from longctx.evals import asking, key_tokens
from longctx.evals.questions import ruler_words
from longctx.evals.questions.api import named
from longctx.evals.sets.api import recognised
from longctx.evals.sets.lengths import TOO_LONG
from longctx.evals.task import Task
from longctx.evals.tasks import (
    attribution,
    by_position,
    context_gain,
    longppl,
    passkey,
    questions,
    sets,
    sliding_window,
)

EVALS: dict[str, Task] = {
    "by_position": by_position.TASK,
    "context_gain": context_gain.TASK,
    "sliding_window": sliding_window.TASK,
    "longppl": longppl.TASK,
    "passkey": passkey.TASK,
    "questions": questions.TASK,
    "sets": sets.TASK,
    "attribution": attribution.TASK,
}


def check(config: EvalConfig) -> None:
    """Raises UserError for an unknown name in `eval`, a length that no row can have, and settings that do not go
    together."""
    if min(config.lengths, default=1) < 1:
        raise UserError(f"eval.lengths={config.lengths} must all be at least 1.")
    for i, name in enumerate(config.tasks):
        if name not in EVALS:
            raise unknown_name(f"eval.tasks[{i}]", name, EVALS)
    named(config.questions)
    if config.ask not in asking.WAYS:
        raise unknown_name("eval.ask", config.ask, asking.WAYS)
    if config.shots < 0:
        raise UserError(f"eval.shots={config.shots} must be at least 0.")
    if config.essays:
        ruler_words.essays(config.essays)
    if config.too_long not in TOO_LONG:
        raise unknown_name("eval.too_long", config.too_long, TOO_LONG)
    if ("sets" in config.tasks) != bool(config.data):
        raise UserError(
            f"eval.data={config.data!r} and eval.tasks={config.tasks} do not go together: the task 'sets' reads the "
            "folder of a set, and no other task does."
        )
    if config.data:
        recognised(config.data)
    if config.data and config.ask == "turns":
        raise UserError("eval.ask='turns' is for texts that leave room for it, and sets do not: eval.ask='generate'.")
    sliding_window.check(config)
    attribution.check(config)
    if "longppl" in config.tasks:
        key_tokens.check(config.evaluator)
