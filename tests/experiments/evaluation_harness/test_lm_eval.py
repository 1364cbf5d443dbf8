"""lm_eval asks models of ours: as transformers answers, on tasks that the test makes. It imports for half a minute."""

import importlib.util
import json
import pathlib

import numpy as np
import pytest

from experiments import harness
from experiments.evaluation_harness import language_model
from experiments.evaluation_harness.answers import Answers
from experiments.evaluation_harness.opened import opened
from experiments.evaluation_harness.requests import Reader
from longctx import hf
from longctx.evals.questions.api import QUESTIONS
from tests.experiments.settings.test_bad_input import has, problem
from tests.longctx.data import tiny_tokenizers
from tests.longctx.hf import tiny
from tests.longctx.hf.tiny_weights import weights

has_package = lambda name: importlib.util.find_spec(name) is not None
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore"),  # lm_eval's own, and those of its packages
    pytest.mark.skipif(not has_package("lm_eval"), reason="lm_eval is not installed: pip install -e '.[evals]'"),
]
LENGTH = 96  # tokens that the model is made for
TASK = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: {kind}
doc_to_text: "{text}"
doc_to_target: {target}
{more}
metric_list:
  - metric: {metric}
"""
CHOICE = 'doc_to_choice: "{{choices}}"\ntarget_delimiter: " "'
UNTIL = 'generation_kwargs: {until: ["\\n", "zz"], max_gen_toks: 12, do_sample: false}\nrepeats: 1'


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> pathlib.Path:
    """A Llama with GPT-2's kind of tokenizer, of which 259 tokens are used."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    shapes = json.loads(str(tiny.golden("llama")["shapes"]))
    shapes = {name: [264, *shape[1:]] if shape[0] == 72 else shape for name, shape in shapes.items()}
    more = {"vocab_size": 264, "max_position_embeddings": LENGTH, "bos_token_id": 0, "eos_token_id": 1}
    tiny.write(folder, "llama", weights(shapes), **more)
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True}
    tokenizer = tiny_tokenizers.byte_level("<s>", "</s>")
    tiny_tokenizers.write(folder, tokenizer, tokenizer_config=tokens | {"tokenizer_class": "PreTrainedTokenizerFast"})
    return folder


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> pathlib.Path:
    """Three tasks as lm_eval has them: choices, whole texts, texts to write."""
    folder, rng = tmp_path_factory.mktemp("tasks"), np.random.default_rng(0)
    words = lambda count: " ".join("".join(rng.choice([*"abcdefg12"], 4)) for _ in range(count))
    docs = [
        {"text": words(1 + i) + " " * (i % 3), "choices": [words(1), words(2), "12"], "gold": i % 3} for i in range(9)
    ]
    docs.append({"text": "", "choices": ["a", "b12", "cé"], "gold": 1})
    whole = [{"text": words(count)} for count in (1, 5, 36)]
    for name, lines in (("choose", docs), ("read", whole), ("write", docs)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    kinds = {
        "choose": ("multiple_choice", "{{text}}", "gold", CHOICE, "acc"),
        "read": ("loglikelihood_rolling", "", '"{{text}}"', "", "word_perplexity"),
        "write": ("generate_until", "{{text}}", '"{{choices[0]}}"', UNTIL, "exact_match"),
    }
    for name, (kind, text, target, more, metric) in kinds.items():
        said = dict(kind=kind, text=text, target=target, more=more, metric=metric)
        (folder / f"{name}.yaml").write_text(TASK.format(name=name, data=folder / f"{name}.jsonl", **said))
    return folder


@pytest.fixture(scope="module")
def answers(model) -> Answers:
    source = opened([f"--config.init_from={model}"], None, None)
    assert source.longest == LENGTH and source.ends == (1,)
    return Answers(source.load(), Reader(source.tokenizer, 264, LENGTH), source.ends)


@pytest.fixture(autouse=True, scope="module")
def offline(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_DATASETS_OFFLINE", "1")
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("home")))
        yield


def asked(lm, folder, *names) -> dict[str, list]:
    """Of each task what the model said: a list of (arguments of a request, its answer)."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(folder), include_defaults=False)
    results = lm_eval.simple_evaluate(model=lm, tasks=list(names), task_manager=manager, bootstrap_iters=0)
    return {
        name: [
            (arguments, answer[0])
            for sample in sorted(samples, key=lambda sample: sample["doc_id"])
            for arguments, answer in zip(sample["arguments"], sample["resps"], strict=True)
        ]
        for name, samples in results["samples"].items()
    }


@pytest.fixture(scope="module")
def ours(answers, tasks):
    return asked(language_model.language_model(answers, "tiny"), tasks, "choose", "read", "write")


def by_hand(model, before: list[int], after: list[int]) -> tuple[float, bool]:
    """(log-likelihood of tokens behind others, whether each has the highest logit), from the logits of hf.load."""
    logits = np.asarray(model(np.array([[*before, *after]])), np.float64)[0, len(before) - 1 : -1]
    logs = logits - np.logaddexp.reduce(logits, -1, keepdims=True)
    return float(logs[np.arange(len(after)), after].sum()), logits.argmax(-1).tolist() == after


def test_answers_are_those_of_the_logits(model, answers, ours):
    ids = lambda text: answers.reader.tokenizer.encode(text.encode()).tolist()
    loaded = hf.load(model)
    assert len(ours["choose"]) == 30 and len(ours["read"]) == 3
    for (context, continuation), (log, greedy) in ours["choose"][::5]:
        before = ids(context.rstrip())
        want, top = by_hand(loaded, [0, *before], ids(context + continuation)[len(before) :])
        assert log == pytest.approx(want, abs=1e-4) and greedy == top
    for (text,), log in ours["read"][:2]:
        assert log == pytest.approx(by_hand(loaded, [0], ids(text))[0], abs=1e-4)
    (text,), log = ours["read"][2]
    whole = [0, *ids(text)]
    assert LENGTH < len(whole) <= 2 * LENGTH + 1
    last = len(whole) - 1 - LENGTH  # tokens of the second window, which reads LENGTH inputs
    parts = by_hand(loaded, whole[:1], whole[1 : LENGTH + 1]), by_hand(loaded, whole[last:-last], whole[-last:])
    assert log == pytest.approx(sum(part for part, _ in parts), abs=1e-4)


@pytest.mark.skipif(not has_package("torch"), reason="torch is not installed: pip install -e '.[bench]'")
def test_answers_are_those_of_transformers(model, tasks, ours):
    from lm_eval.models.huggingface import HFLM

    theirs = asked(
        HFLM(str(model), device="cpu", dtype="float32", batch_size=1, add_bos_token=True), tasks, "choose", "write"
    )
    assert [arguments for arguments, _ in ours["choose"]] == [arguments for arguments, _ in theirs["choose"]]
    for (_, (log, greedy)), (_, (want, top)) in zip(ours["choose"], theirs["choose"], strict=True):
        assert log == pytest.approx(want, abs=1e-4) and greedy == bool(top)
    assert [text for _, text in ours["write"]] == [text for _, text in theirs["write"]]


def test_the_command_writes_what_lm_eval_finds(model, tasks, answers, ours, tmp_path, capsys):
    out = tmp_path / "found.json"
    said = [f"--config.init_from={model}", "--tasks", "choose,read", "--include", str(tasks), "--out", str(out)]
    harness.main(["harness", *said, "--limit", "6"])
    found, printed = json.loads(out.read_text()), capsys.readouterr().out
    logs = np.array([log for _, (log, _) in ours["choose"][:18]]).reshape(6, 3)
    right = (logs.argmax(1) == [0, 1, 2, 0, 1, 2]).mean()
    assert found["results"]["choose"]["acc,none"] == pytest.approx(right) and "|choose|" in printed
    assert found["longctx"]["model"] == "tiny" and found["longctx"]["length"] == LENGTH and "samples" not in found
    has(problem(harness.main, ["harness", *said, "--length", "16"]), "--length=16", "--cut")
    harness.main(["harness", *said[:2], "choose", *said[3:], "--length", "24", "--cut"])
    tokens = [len(answers.reader.tokenizer.encode("".join(pair).encode())) for pair, _ in ours["choose"]]
    cut = json.loads(out.read_text())["longctx"]["cut"]
    assert cut == sum(count > 24 for count in tokens) > 0
    unknown = [arg if arg != "choose,read" else "chose" for arg in said]
    has(problem(harness.main, ["harness", *unknown]), "'chose' is none of", "lm-eval ls tasks")


def test_an_exported_task_is_solved(tmp_path):
    """By its prompt alone, which lm_eval puts together: the solver scores 1 at every length, and silence 0."""
    from lm_eval.api.model import LM

    names = ("niah_multiquery", "json_kv", "mrcr_2", "babilong_qa5", "lift")
    sizes = ["--lengths", "4000,6000", "--samples", "2", "--tokenizer", "bytes"]
    harness.main(["harness", "--export", str(tmp_path), "--questions", ",".join(names), *sizes])
    solvers = {}
    for name in names:
        for line in map(json.loads, (tmp_path / f"{name}.jsonl").read_text().splitlines()):
            solvers[line["input"] + line["gen_prefix"]] = QUESTIONS[name].solve

    class Solver(LM):
        says = staticmethod(lambda context: solvers[context](context))

        def generate_until(self, requests):
            return [self.says(request.args[0]) for request in requests]

        loglikelihood = loglikelihood_rolling = None

    class Silent(Solver):
        says = staticmethod(lambda context: "")

    import lm_eval
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    for lm, worth in ((Solver(), 1.0), (Silent(), 0.0)):
        found = lm_eval.simple_evaluate(model=lm, tasks=["longctx"], task_manager=manager, log_samples=False)
        assert set(found["results"]) >= {f"longctx_{name}" for name in names}
        for name in names:
            scores = found["results"][f"longctx_{name}"]
            assert [scores[f"{metric},none"] for metric in ("score", "4000", "6000")] == [worth] * 3
