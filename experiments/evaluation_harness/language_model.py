"""The LM of lm_eval that answers for a model of ours, and the evaluation of tasks by it."""

import difflib
import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from experiments.evaluation_harness.answers import Answers
from longctx.errors import UserError


class Chosen(NamedTuple):
    """What is asked.

    Attributes:
      tasks: names of lm_eval's tasks, groups or tags.
      include: a folder with tasks (.yaml) beside lm_eval's own, if any.
      limit: samples of a task, the first ones; None: all.
      fewshot: examples before each; None: as the task says.
    """

    tasks: Sequence[str]
    include: str | None = None
    limit: int | None = None
    fewshot: int | None = None


def language_model(answers: Answers, name: str):
    """The lm_eval.api.model.LM of a model called `name`."""
    from lm_eval.api.model import LM

    class LongctxLM(LM):
        """A model of longctx."""

        tokenizer_name = name

        def loglikelihood(self, requests):
            return answers.likelihoods([request.args for request in requests])

        def loglikelihood_rolling(self, requests):
            return answers.whole([request.args[0] for request in requests])

        def generate_until(self, requests):
            return answers.written([request.args for request in requests])

        def apply_chat_template(self, chat_history, add_generation_prompt=True):
            return answers.conversation(chat_history, add_generation_prompt)

        def chat_template(self, chat_template=False):
            return name if chat_template else None

    return LongctxLM()


def tasks(chosen: Chosen):
    """The lm_eval.tasks.TaskManager that knows the chosen tasks. Those of the included folder are enough, if they are
    all: lm_eval's own take seconds to list.

    Raises UserError for an unknown name.
    """
    from lm_eval.tasks import TaskManager

    if chosen.include:
        manager = TaskManager(include_path=chosen.include, include_defaults=False)
        if {*chosen.tasks} <= {*manager.all_tasks}:
            return manager
    manager = TaskManager(include_path=chosen.include)
    known = manager.all_tasks
    for name in chosen.tasks:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise UserError(
                f"--tasks: {name!r} is none of {len(known):,} tasks, groups and tags.{hint} `lm-eval ls tasks` lists "
                "those of lm_eval; --include FOLDER adds others."
            )
    return manager


def evaluate(answers: Answers, name: str, manager, chosen: Chosen) -> dict[str, Any]:
    """The results of lm_eval.simple_evaluate, without samples.

    Raises UserError where the data of a task cannot be had.
    """
    import lm_eval

    try:
        return lm_eval.simple_evaluate(
            model=language_model(answers, name),
            tasks=list(chosen.tasks),
            task_manager=manager,
            num_fewshot=chosen.fewshot,
            limit=chosen.limit,
            apply_chat_template=answers.template is not None,
            log_samples=False,
        )
    except ConnectionError as error:
        raise UserError(f"the data of --tasks {','.join(chosen.tasks)} cannot be had: {error}") from error


def write(results: dict[str, Any], more: dict, path: str) -> str:
    """Writes the results, and what else is known of them as "longctx", as JSON. Returns them as a table."""
    from lm_eval.utils import handle_non_serializable, make_table

    content = json.dumps(results | {"longctx": more}, indent=2, default=handle_non_serializable)
    pathlib.Path(path).write_text(content + "\n")
    return make_table(results)
