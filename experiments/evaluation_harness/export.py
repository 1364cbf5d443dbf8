"""Our generated questions as tasks of lm_eval: for each a .jsonl and a .yaml, and one utils.py that scores all."""

import ast
import inspect
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from experiments.evaluation_harness import rules, scored
from longctx.data.tokenizers import Tokenizer
from longctx.errors import UserError
from longctx.evals.questions import fit, scores
from longctx.evals.questions.api import QUESTIONS, named

PREFIX = "longctx_"  # of the names of tasks
NO_RULE = "has no rule in experiments/evaluation_harness/scored.py to score its answers by"
TASK = """\
# {what}
# {source}
task: {prefix}{name}
tag: longctx
dataset_path: ""
custom_dataset: !function utils.documents
output_type: generate_until
test_split: test
num_fewshot: 0
doc_to_text: input
doc_to_target: outputs
gen_prefix: gen_prefix
target_delimiter: ""
process_results: !function utils.process_results
metric_list:
{metrics}
generation_kwargs:
  until: []
  do_sample: false
  temperature: 0.0
  max_gen_toks: {budget}
metadata:
  version: 1.0
  file: {name}.jsonl
"""
METRIC = """\
  - metric: "{name}"
    aggregation: mean
    higher_is_better: true"""


class Made(NamedTuple):
    """How questions are made.

    Attributes:
      tokenizer: what tokens are counted by.
      lengths: of prompt and answer, in tokens.
      samples: texts of a task and length.
    """

    tokenizer: Tokenizer
    lengths: Sequence[int]
    samples: int
    seed: int = 0


def write(names: Sequence[str], made: Made, folder) -> Iterator[str]:
    """Writes the tasks and suites with these names into a folder, and yields a line about each task.

    Tasks of a suite that have no rule are left out. Raises UserError for one that is named itself, for an unknown name,
    and for a length that is too short for a task.
    """
    folder, tasks = pathlib.Path(folder), named(names, "--questions")
    without = [name for name in tasks if not scored.has_rule(QUESTIONS[name])]
    if asked := [name for name in without if name in names]:
        raise UserError(f"--questions: {asked[0]} {NO_RULE}.")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "utils.py").write_text(utils(), encoding="utf-8")
    for name in tasks:
        if name in without:
            yield f"{PREFIX}{name}: left out, as it {NO_RULE}"
            continue
        lines = [json.dumps(line) for line in questions(name, made)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (folder / f"{name}.yaml").write_text(task_file(name, made.lengths), encoding="utf-8")
        yield f"{PREFIX}{name}: {len(lines):,} questions"


def questions(name: str, made: Made) -> Iterator[dict]:
    """A dict for each question of a task.

    input + gen_prefix is the prompt, outputs what a right answer holds, max_length the length that prompt and answer
    fit into, tokens those of the prompt with its start token, size the parts of the haystack, chance the score of a
    guess, scoring the rule of rules.py with its settings, as JSON.
    """
    task, index = QUESTIONS[name], 0
    for length in made.lengths:
        for sample in range(made.samples):
            found = fit.fitted(task, name, made.tokenizer, length, made.seed, sample)
            for query in found.sample.queries:
                yield {
                    "index": index,
                    "sample": sample,
                    "max_length": length,
                    "tokens": found.tokens,
                    "size": found.size,
                    "input": found.sample.context + query.question,
                    "gen_prefix": query.prefix,
                    "outputs": list(query.gold),
                    "chance": task.chance(query),
                    "scoring": json.dumps(scored.settings(task, query)),
                }
                index += 1


def task_file(name: str, lengths: Sequence[int]) -> str:
    """The .yaml of a task: its score over all lengths, and at each."""
    task = QUESTIONS[name]
    return TASK.format(
        what=task.what,
        source=task.source or "of longctx",
        prefix=PREFIX,
        name=name,
        budget=task.budget,
        metrics="\n".join(METRIC.format(name=metric) for metric in ("score", *lengths)),
    )


def utils() -> str:
    """utils.py: the scores of longctx and the rules, in one file that needs nothing else of longctx."""
    return f"{inspect.getsource(scores)}\n\n{_without_imports_of_ours(inspect.getsource(rules))}"


def _without_imports_of_ours(source: str) -> str:
    lines = source.splitlines(keepends=True)
    for node in reversed(ast.parse(source).body):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("longctx"):
            del lines[node.lineno - 1 : node.end_lineno]
    return "".join(lines)
