"""Every command says what is wrong with its options in one line that begins with "error: ", and exits with 2."""

import errno
import re

import pytest

from experiments import comm, export, generate, plan, report
from experiments.bench import longest, tune_kernels
from experiments.bench.harness.options import parser as bench_parser
from experiments.hardware import targets
from experiments.run import command
from experiments.settings import console, extras
from longctx.errors import UserError
from tests.helpers import ROOT

COMMANDS = {"plan": plan, "comm": comm, "export": export, "generate": generate, "longest": longest}


def refused(capsys, call, *args) -> str:
    with pytest.raises(SystemExit) as stopped:
        call(*args)
    said = capsys.readouterr()
    assert stopped.value.code == 2 and said.out == ""
    assert said.err.startswith("error: ") and said.err.count("\n") == 1
    return said.err


def parser() -> console.Parser:
    made = console.Parser("Does nothing.")
    made.add_argument("--rounds", type=int, default=1)
    made.add_argument("--find-max-length", action="store_true")
    made.add_argument("--op", choices=("forward", "backward"))
    made.add_argument("--out", default="x")
    return made


@pytest.mark.parametrize(
    "argv, says",
    [
        (["--round", "2"], "--round is not an option. Did you mean --rounds?"),
        (["--rounds"], "--rounds needs a value."),
        (["--rounds", "two"], "--rounds=two must be int."),
        (["--op", "sideways"], "--op=sideways is not known. Known: "),
        (["--find-max-length=3"], "--find-max-length takes no value, and '3' was given."),
        (["stray"], "argument 'stray' belongs to no option"),
        (["-r"], "-r is not an option. Known: "),
    ],
)
def test_a_mistake_is_one_line(argv, says, capsys):
    assert says in refused(capsys, parser().parse_args, argv)


def test_options_may_stand_among_settings(capsys):
    asked, settings = parser().parse_with_settings(["--config", "a.py", "--rounds=2", "--config.model.layers=3"])
    assert asked.rounds == 2 and settings == ["--config", "a.py", "--config.model.layers=3"]
    assert "Did you mean --config?" in refused(capsys, parser().parse_with_settings, ["--confg=a.py"])
    assert "--config is not an option" in refused(capsys, parser().parse_args, ["--config=a.py"])


@pytest.mark.parametrize("name", [*COMMANDS, "report", "bench.train_step"])
def test_no_command_takes_a_part_of_a_name(name, capsys):
    if name == "report":
        said = refused(capsys, report.main, ["--workdi", "x"])
    elif name == "bench.train_step":
        said = refused(capsys, bench_parser("Times.", out=None).parse_args, ["--ou", "x"])
    else:
        word = {
            "plan": "--targe",
            "comm": "--targe",
            "generate": "--checkpoin",
            "export": "--workdi",
            "longest": "--case",
        }[name]
        said = refused(capsys, COMMANDS[name].main, [name, word, "x"])
    assert "is not an option. Did you mean --" in said


def test_no_command_has_a_parser_of_its_own():
    sources = {path.name: path.read_text() for path in (ROOT / "experiments").rglob("*.py")}
    assert [name for name, text in sources.items() if re.search(r"\bArgumentParser\(", text)] == []


@pytest.mark.parametrize(
    "main, argv, field",
    [
        (plan.main, ["plan", "--target=cpu:1", "--workdir", "gs://bucket/run"], "--workdir='gs://bucket/run'"),
        (export.main, ["export", "--workdir=x", "--out=s3://bucket/out"], "--out='s3://bucket/out'"),
        (
            generate.main,
            ["g", "--checkpoint=hf://a/b", "--prompt-file=x", "--max-new-tokens=1"],
            "--checkpoint='hf://a/b'",
        ),
        (report.main, ["--workdir=gs://bucket/run"], "--workdir='gs://bucket/run'"),
    ],
)
def test_an_address_is_not_a_folder(main, argv, field, capsys):
    if main is report.main:
        assert main(argv) == 2
        said = capsys.readouterr().err
    else:
        with pytest.raises(UserError) as caught:
            main(argv)
        said = str(caught.value)
    assert field in said and "files and folders of this machine" in said


@pytest.mark.parametrize(
    "argv, field",
    [
        (["--workdir=gs://bucket/run"], "--workdir='gs://bucket/run'"),
        (["--config.data.tokenizer=hf://org/name"], "data.tokenizer='hf://org/name'"),
        (["--config.init_from=s3://bucket/model"], "init_from='s3://bucket/model'"),
        (["--config=gs://bucket/file.py"], "--config='gs://bucket/file.py'"),
    ],
)
def test_an_address_is_not_a_setting(argv, field):
    from experiments.settings import config as configs

    with pytest.raises(UserError, match="files and folders of this machine") as caught:
        configs.from_command_line(["train", "--config", str(ROOT / "tests/golden/three_stages.py"), *argv])
    assert str(caught.value).startswith(field)


def test_what_is_not_installed_is_said_with_its_extra(monkeypatch):
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda name: None)
    assert extras.missing("torch") == "torch is not installed: pip install -e '.[bench]'"
    assert extras.missing("torch", "libtpu").endswith("and libtpu are not installed: pip install -e '.[aot,bench]'")
    with pytest.raises(UserError, match=r"tuning cannot be done here: libtpu is not installed: pip .*'.\[aot\]'"):
        tune_kernels.main([])
    for target in ("v5e:2x4", "h100x8"):
        with pytest.raises(UserError, match=rf"for {target} cannot be done here: \w+ is not inst.*pip .*'.\[aot\]'"):
            targets.target(target)


def test_a_device_or_a_disk_that_is_full_and_a_folder_that_has_gone_are_one_line(capsys):
    def full(argv):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 11264000000000 bytes.\nMore.")

    def broken(argv):
        raise RuntimeError("INTERNAL: a bug")

    def disk(argv):
        raise OSError(errno.ENOSPC, "No space left on device", "runs/x/evals.json")

    def removed(argv):
        raise FileNotFoundError(errno.ENOENT, "No such file", "runs/gone/evals.json")

    def mistaken(argv):
        raise FileNotFoundError(errno.ENOENT, "No such file", "x")

    assert "Out of memory allocating 11264000000000 bytes. More devices take" in refused(capsys, command.run, full)
    assert "runs/x/evals.json cannot be written: No space left on device." in refused(capsys, command.run, disk)
    assert "runs/gone has gone while the command ran; runs/gone/evals.json" in refused(capsys, command.run, removed)
    with pytest.raises(FileNotFoundError):
        command.run(mistaken)
    with pytest.raises(RuntimeError, match="a bug"):
        command.run(broken)
