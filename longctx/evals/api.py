"""The evaluation tasks by name; longctx.evals.task.Task says what one is.

To add one: a file in longctx/evals/tasks and a line in EVALS. It is then measured where eval.tasks names it, and shown
in the report.
"""

from longctx.config import EvalConfig
from longctx.errors import UserError, unknown_name
from longctx.evals import key_tokens
from longctx.evals.questions.api import named
from longctx.evals.task import Task
from longctx.evals.tasks import attribution, by_position, context_gain, longppl, passkey, questions, sliding_window

EVALS: dict[str, Task] = {
    "by_position": by_position.TASK,
    "context_gain": context_gain.TASK,
    "sliding_window": sliding_window.TASK,
    "longppl": longppl.TASK,
    "passkey": passkey.TASK,
    "questions": questions.TASK,
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
    if config.ask not in questions.WAYS:
        raise unknown_name("eval.ask", config.ask, questions.WAYS)
    sliding_window.check(config)
    attribution.check(config)
    if "longppl" in config.tasks:
        key_tokens.check(config.evaluator)
