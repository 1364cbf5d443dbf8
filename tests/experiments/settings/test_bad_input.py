"""Every mistake in a command, a config file, the data or the workdir: one line that names it and what would work."""

import dataclasses
import json
import os
import resource
import subprocess
import sys

import pytest

from experiments.run import checks, command
from experiments.settings import config as configs
from longctx.checkpoints import manifest
from longctx.config import LayerConfig, MemoryConfig, ModelConfig
from longctx.errors import UserError
from tests.helpers import ROOT, slow

QUICKSTART = str(ROOT / "configs" / "quickstart.py")
PLAIN = str(ROOT / "tests" / "golden" / "three_stages.py")
FILE = ["--config", PLAIN]
STREAMED = ["memory.backward=streamed", "memory.chunk_tokens=256"]
HEAD = "from experiments import config as configs\ndef get_config():\n    config = configs.defaults()\n"


def problem(call, *args, **kwargs) -> str:
    """The message of the UserError that the call raises; checked to be one line."""
    with pytest.raises(UserError) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message and 10 < len(message) < 600
    return message


def refused(*argv) -> str:
    return problem(configs.from_command_line, ["command", *argv])


def wrong(*overrides, workdir=None) -> str:
    """The error of check for the default settings with these --config. overrides."""
    argv = ["command", *FILE, *(f"--config.{override}" for override in overrides)]
    return problem(checks.check, configs.from_command_line(argv)[0], workdir)


def has(message: str, *parts: str) -> None:
    missing = [part for part in parts if part not in message]
    assert not missing, f"{missing} not in: {message}"


@pytest.mark.parametrize(
    "argv, parts",
    [
        (["--config.modle.layers=2"], ["modle.layers", "Did you mean model.layers?", "Fields: name, seed,"]),
        (["--config.model.layer=2"], ["Did you mean model.layers?", "Fields of model: vocab_size, layers,"]),
        (["--config.layers=2"], ["no field layers", "Did you mean model.layers?"]),
        (
            ["--config.stages[1].rope.thet=2"],
            ["Did you mean stages[1].rope.theta?", "Fields of stages[1].rope: theta,"],
        ),
        (["--config.stages[7].steps=2"], ["stages[7]", "stages[0] to stages[2]"]),
        (["--config.model.layers.x=2"], ["no field model.layers.x", "model.layers?"]),
        (["--config.model.layers[0]=2"], ["model.layers[0]", "has no entries"]),
        (["--config.eval.tasks[0]=x"], ["eval.tasks[0]", "--config.eval.tasks=("]),
        (["--config.model=2"], ["model is a group of fields", "layers"]),
        (["--config.stages[0]=2"], ["stages[0] is a group of fields", "seq_len"]),
        (["--config.stages=2"], ["stages[0]=2", "seq_len"]),
        (["--config.=2"], ["--config. is not a field"]),
        (["--config.model.layers=two"], ["model.layers='two'", "int", "such as 4"]),
        (["--config.model.layers=2.5"], ["model.layers='2.5'", "int"]),
        (["--config.optim.eps=small"], ["optim.eps='small'", "float", "1e-08"]),
        (["--config.optim.eps=nan"], ["optim.eps=nan", "finite"]),
        (["--config.log.tensorboard=maybe"], ["log.tensorboard='maybe'", "bool"]),
        (["--config.stages[1].rope.factor=x"], ["stages[1].rope.factor='x'", "float"]),
        (["--config.eval.lengths=(1,"], ["eval.lengths='(1,'", "tuple"]),
        (["--config.eval.lengths=(1,'a')"], ["eval.lengths[1]='a'", "int"]),
        (["--config.model.layers"], ["Missing value", "--config.model.layers"]),
        (["--wrokdir=x"], ["--wrokdir", "Did you mean --workdir?"]),
        (["--workdir"], ["Missing value", "--workdir"]),
        (["stray"], ["'stray'", "belongs to no flag"]),
    ],
)
def test_command_line(argv, parts):
    has(refused(*FILE, *argv), *parts)


def test_config_file_is_missing():
    has(refused(), "--config is missing", "configs/quickstart.py")
    has(refused("configs/tiny.py"), "--config is missing", "--config configs/tiny.py")
    has(refused("--configs=a.py"), "Did you mean --config?")


@pytest.mark.parametrize("name", ["configs/quickstrat.py", "quickstart.py", "quickstart", "configs/quickstart"])
def test_config_file_that_is_not_there(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    has(refused("--config", name), f"--config {name} does not exist", "Did you mean configs/quickstart.py?")


@pytest.mark.parametrize(
    "argument, parts",
    [
        ("smok", ["'smok'", "Did you mean 'smoke'?", "Known: context, smoke"]),
        ("context", ["context", "needs a value", "context=1"]),
        ("context=four", ["context='four'", "int"]),
        ("smoke=perhaps", ["smoke='perhaps'", "bool"]),
    ],
)
def test_config_argument(argument, parts):
    has(refused("--config", f"{QUICKSTART}:{argument}"), *parts)


@pytest.mark.parametrize(
    "text, parts",
    [
        ("x = 1\n", ["has no function get_config()"]),
        ("def get_config():\n    return 1 / 0\n", ["line 2", "ZeroDivisionError", "division by zero"]),
        ("def get_config(:\n", ["line 1", "SyntaxError"]),
        ("import no_such_module\n", ["line 1", "ModuleNotFoundError", "no_such_module"]),
        ("def get_config():\n    return {}\n", ["must return", "not dict"]),
        (
            HEAD + "    config.modle.layers = 2\n    return config\n",
            ["line 4", "no field modle.layers", "Did you mean model.layers?", "Fields: name, seed,"],
        ),
        (
            HEAD + "    config.model.layer = 2\n    return config\n",
            ["line 4", "no field model.layer.", "Did you mean model.layers?", "Fields of model: vocab_size,"],
        ),
        (
            HEAD + "    config.stages[0].step = 2\n    return config\n",
            ["line 4", "no field stages[0].step.", "Did you mean stages[0].steps?", "Fields of stages[0]: seq_len,"],
        ),
        (
            HEAD + "    m = config.model\n    m.layer = 2\n    return config\n",
            ["line 5", "no field layer.", "Did you mean layers?", "Fields: vocab_size,"],
        ),
        (HEAD + "    config.model.layers = 'two'\n    return config\n", ["line 4", "TypeError", "layers"]),
        (
            HEAD + "    config.stages = [dict(seq_len=8, step=2)]\n    return config\n",
            ["no field stages[0].step.", "Did you mean stages[0].steps?"],
        ),
        (
            HEAD + "    config.stages = [configs.stage(step=2)]\n    return config\n",
            ["stage field='step'", "Did you mean 'steps'?"],
        ),
        (
            HEAD + "    config.stages = [configs.stage(rope=configs.rope(thet=2))]\n    return config\n",
            ["'thet'", "'theta'"],
        ),
        (
            HEAD + "    config.model.tied_head = config.model.layers = True\n    return config\n",
            ["model.layers=True", "int"],
        ),
    ],
)
def test_config_file_that_fails(text, parts, tmp_path):
    (tmp_path / "mine.py").write_text(text)
    has(refused("--config", str(tmp_path / "mine.py")), *parts)


def test_arguments_for_a_file_that_takes_none(tmp_path):
    (tmp_path / "mine.py").write_text(HEAD + "    return config\n")
    has(refused("--config", f"{tmp_path}/mine.py:smoke"), "takes no arguments", "':smoke'")


@pytest.mark.parametrize(
    "overrides, parts",
    [
        (["model.layers=0"], ["model.layers=0", "at least 1"]),
        (["model.kv_heads=3"], ["model.kv_heads=3", "model.heads=4", "1, 2, 4"]),
        (["model.head_dim=63"], ["model.head_dim=63", "even", "64"]),
        (["mesh.tensor=4"], ["model.kv_heads=2", "mesh.tensor=4", "4 works"]),
        (["mesh.fsdp=3"], ["model.d_model=256", "mesh.fsdp=3", "258 works"]),
        (["mesh.context=4", "mesh.simulate=2"], ["mesh.simulate=2", "context 4", "4 works"]),
        (["model.dtype=float61"], ["model.dtype='float61'", "bfloat16, float32"]),
        (["model.mask=causal & windw(3)"], ["model.mask", "windw(3)", "window"]),
        (["model.position=dca(4)"], ["model.position='dca(4)'", "dca(chunk: int, local: int), all positive"]),
        (
            ["model.position=dca(64,8)", "model.mask=full"],
            ["model.position='dca(64,8)'", "model.mask='full'", "causal"],
        ),
        (["model.query_scale=lama4"], ["model.query_scale='lama4'", "'llama4'"]),
        (["model.pattern=()"], ["model.pattern=()", "a kind of layer"]),
        (["model.pattern[0].position=nop"], ["model.pattern[0].position='nop'", "'nope'"]),
        (["model.pattern[0].mask=casual"], ["model.pattern[0].mask: 'casual'"]),
        (["model.remat=layers"], ["model.remat='layers'", "'layer'"]),
        (["model.remat=tokens(0.6,0.6)"], ["model.remat='tokens(0.6,0.6)'", "at most 1", "tokens(0.25, 0.5) works"]),
        (["memory.mlp_tiles=0"], ["memory.mlp_tiles=0", "at least 1"]),
        (["memory.head_groups=3"], ["memory.head_groups=3", "the 2 key heads of a tensor shard", "1, 2 would"]),
        (["memory.chunk_tokens=256"], ["memory.chunk_tokens=256", "memory.backward='streamed'", "'autodiff'"]),
        (["memory.backward=streamed", "memory.loss_tiles=2"], ["memory.loss_tiles=2", "memory.backward='autodiff'"]),
        (["model.rope.scaling=yarm"], ["model.rope.scaling='yarm'", "'yarn'"]),
        (["stages[1].rope.scaling=yarn"], ["stages[1].rope.original_length=0"]),
        (["stages[2].rope.theta=0"], ["stages[2].rope.theta=0.0", "above 1"]),
        (["model.rope.rotary_fraction=0.3"], ["model.rope.rotary_fraction=0.3", "19 of 64"]),
        (["stages[1].rope.scaling=clex", "stages[1].rope.original_length=512"], ["stages[1].rope", "'clex' in both"]),
        (["stages[1].augment=poze"], ["stages[1].augment='poze'", "'pose'"]),
        (["stages[1].augment=pose"], ["stages[1].augment_length=0", "at least stages[1].seq_len=2048"]),
        (["stages[1].augment=clex", "stages[1].augment_length=4096"], ["rope.scaling='clex'", "'none'"]),
        (["stages[1].seq_len=1000"], ["batch_tokens=8192", "stages[1].seq_len=1000", "8000 or 9000"]),
        (
            ["stages[1].seq_len=4", "mesh.context=4"],
            ["stages[1].seq_len=4", "zigzag", "4 context shards", "Nearest: 8"],
        ),
        (["eval.lengths=(512,0)"], ["eval.lengths=(512, 0)", "at least 1"]),
        (["stages[0].steps=0"], ["stages[0]", "steps=0", "exactly one"]),
        (["stages=()"], ["stages=()", "at least one"]),
        (["stages[0].lr=rewarmed"], ["stages[0].lr='rewarmed'", "'rewarm'"]),
        (["stages[0].lr_scale=-1"], ["stages[0].lr_scale=-1.0", "at least 0"]),
        (["attention.layout=zig"], ["attention.layout='zig'", "'zigzag'"]),
        (
            ["attention.layout=striped(128)", "mesh.context=8"],
            ["stages[0].seq_len=512", "striped(128)", "Nearest: 1024"],
        ),
        (["attention.strategy=rign"], ["attention.strategy='rign'", "Did you mean 'ring'?", "all_gather"]),
        (
            ["attention.strategy=ulysses", "mesh.context=8"],
            ["attention.strategy='ulysses'", "4 query heads", "8 context"],
        ),
        (["attention.strategy=lightseq", "mesh.context=2"], ["attention.layout='contiguous'", "'zigzag'", "'ring'"]),
        (["attention.strategy=local", "mesh.context_outer=2"], ["attention.strategy='local'", "2 x 1", "'ring'"]),
        (["attention.kv_grads_dtype=bf16"], ["attention.kv_grads_dtype='bf16'", "bfloat16, float32"]),
        (["attention.kernel=chunk"], ["attention.kernel='chunk'", "'chunked'", "auto"]),
        (["memory.backward=stream"], ["memory.backward='stream'", "'streamed'"]),
        (["memory.chunk_tokens=128"], ["memory.chunk_tokens=128", "memory.backward='streamed'", "'autodiff'"]),
        (["memory.backward=streamed"], ["memory.chunk_tokens=0", "every stage", "512 works"]),
        (
            ["memory.backward=streamed", "memory.chunk_tokens=100"],
            ["memory.chunk_tokens=100", "every stage", "512 works"],
        ),
        ([*STREAMED, "memory.clip_mode=delay"], ["memory.clip_mode='delay'", "'delayed'"]),
        ([*STREAMED, "memory.offload=('residul',)"], ["memory.offload[0]='residul'", "'residual'"]),
        (["memory.offload=('params','kv')"], ["'kv'", "memory.backward='streamed'", "'grads', 'moments', 'params'"]),
        (["memory.offload=('params',)", "model.remat=none"], ["model.remat='none'", "'params'", "'layer' works"]),
        (
            [*STREAMED, "mesh.context=2", "attention.layout=contiguous", "attention.strategy=lightseq"],
            ["memory.backward='streamed'", "'lightseq'", "not known", "'ring'"],
        ),
        (["optim.schedule=cosin"], ["optim.schedule='cosin'", "'cosine'"]),
        (["optim.b2=1"], ["optim.b2=1.0", "below 1"]),
        (["optim.eps=0"], ["optim.eps=0.0", "above 0"]),
        (["optim.ema=1"], ["optim.ema=1.0", "below 1"]),
        (
            ["optim.trains=('mlp.gats',)"],
            ["optim.trains[0]='mlp.gats' matches no parameter", "Did you mean 'mlp.gate'?"],
        ),
        (
            ["model.lora.rank=8", "model.lora.targets=('atention.wq',)"],
            [
                "model.lora.targets[0]='atention.wq' matches no",
                "Did you mean 'attention.wq'?",
                "attention.wk",
                "mlp.up",
            ],
        ),
        (["model.lora.rank=8", "model.lora.alpha=0"], ["model.lora.alpha=0.0", "above 0"]),
        (["model.lora.rank=8", "model.lora.adapter=x"], ["model.lora.adapter='x'", "init_from"]),
        (["model.lora.rank=8", "memory.offload=('grads',)"], ["memory.offload=('grads',)", "model.lora.rank", "works"]),
        (["eval.tasks=('passkey','poskey')"], ["eval.tasks[1]='poskey'", "'passkey'"]),
        (["log.every_steps=0"], ["log.every_steps=0", "at least 1"]),
        (["name=a/b"], ["name='a/b'", "folder name"]),
        (["data.path=/no/such/folder"], ["data.path='/no/such/folder'", "does not exist"]),
        (["data.holdout=2"], ["data.holdout=2.0", "above 0 and at most 1"]),
        (["data.tokenizer=byte"], ["data.tokenizer='byte'", "'bytes'"]),
        (["model.vocab_size=100"], ["model.vocab_size=100", "259", "264 works"]),
        (["data.prefetch=-1"], ["data.prefetch=-1", "at least 0"]),
    ],
)
def test_settings_that_cannot_work(overrides, parts):
    has(wrong(*overrides), *parts)


def test_a_pattern_that_the_kept_layers_do_not_fit():
    kinds = tuple(LayerConfig(mask=f"causal & window({n})") for n in (8, 16, 32))
    config = dataclasses.replace(
        configs.from_command_line(["command", *FILE])[0],
        model=ModelConfig(pattern=kinds),
        memory=MemoryConfig("streamed", chunk_tokens=256, residual_every=2),
    )
    has(problem(checks.check, config), "memory.residual_every=2", "3 kinds of layers", "1 and 3 work")


def test_a_layer_left_over_when_gradients_are_on_the_hosts():
    model = ModelConfig(layers=3, pattern=(LayerConfig(), LayerConfig(mask="causal & window(8)")))
    config = dataclasses.replace(
        configs.from_command_line(["command", *FILE])[0], model=model, memory=MemoryConfig(offload=("moments", "grads"))
    )
    has(problem(checks.check, config), "'grads'", "model.layers=3", "2 kinds of layers", "4 works")


def test_the_most_basic_problem_comes_first():
    has(wrong("data.path=/no/such", "model.layers=0", "optim.schedule=x"), "model.layers=0")
    has(wrong("data.path=/no/such", "optim.schedule=x"), "optim.schedule='x'")


def test_text_that_a_tokenizer_cannot_take(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {"a": 0, "<eos>": 1}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="a"))
    tokenizer.add_special_tokens(["<eos>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "latin.txt").write_bytes("caf\u00e9 ".encode("latin-1") * 9)
    path = f"data.path={tmp_path}/text"
    has(wrong(path, f"data.tokenizer={tmp_path}"), "latin.txt'", "not UTF-8", "0xe9", "'bytes' takes any")
    has(wrong(path, f"data.tokenizer={tmp_path}", "model.vocab_size=1"), "model.vocab_size=1", "2 tokens")
    argv = ["command", *FILE, f"--config.{path}"]
    assert checks.check(configs.from_command_line(argv)[0]).corpora.train  # bytes take it


def checkpoint_of(stored: dict, workdir) -> None:
    step = workdir / configs.CHECKPOINTS / "10"
    (step / "state").mkdir(parents=True)
    manifest.write(step, manifest.Manifest(10, {}, {}, None, {"config": stored}))


def test_a_workdir_with_the_checkpoints_of_another_config(tmp_path):
    config = configs.from_command_line(["command", *FILE])[0]
    checkpoint_of(dataclasses.asdict(config), tmp_path)
    assert checks.check(config, tmp_path).stages
    has(
        wrong("model.layers=3", "seed=7", workdir=tmp_path),
        str(tmp_path),
        "model.layers: 4 (checkpoint) != 3 (now)",
        "seed: 0 (checkpoint) != 7 (now)",
        "another --workdir",
        "delete it",
    )


def test_checkpoints_that_are_older_than_a_setting_are_of_the_same_run(tmp_path):
    config = configs.from_command_line(["command", *FILE])[0]
    stored = dataclasses.asdict(config)
    for newer in ("pattern", "position", "query_scale"):
        del stored["model"][newer]
    checkpoint_of(stored, tmp_path)
    assert checks.check(config, tmp_path).stages
    has(wrong("model.position=nope", workdir=tmp_path), 'model.position: "rope" (checkpoint) != "nope" (now)')


def test_layers_that_do_not_go_together():
    for pattern, *parts in (
        ([configs.layer(position="t5"), configs.layer(position="t5(8)")], "t5 and t5(8)", "one learned bias"),
        ([configs.layer(rope=configs.rope(theta=0.5))], "model.pattern[0].rope.theta=0.5", "above 1"),
        ([configs.layer(rope=configs.rope(scaling="clex", original_length=64))], "model.rope alone"),
    ):
        tree = configs.defaults()
        tree.model.pattern = tuple(pattern)
        has(problem(checks.check, configs.from_config_dict(tree)), *parts)
    has(problem(configs.layer, positon="nope"), "layer field", "'position'")


def test_a_workdir_that_cannot_be_one(tmp_path):
    (tmp_path / "file").write_text("")
    for workdir in (tmp_path / "file", tmp_path / "file" / "below"):
        has(wrong(workdir=workdir), f"--workdir={str(workdir)!r}", f"{str(tmp_path / 'file')!r} is not a folder")


def test_an_existing_run_that_is_not_there(tmp_path):
    has(problem(configs.from_workdir, ["command"]), "--workdir is missing")
    has(problem(configs.from_workdir, ["command", "--workdir", str(tmp_path)]), repr(str(tmp_path)), "no checkpoints")
    has(problem(configs.from_workdir, ["command", "--workdir", str(tmp_path), *FILE]), PLAIN, "field=value")


SCRIPT = """
from experiments.run import checks, command
from experiments.settings import config as configs

def main(argv):
    config, workdir = configs.from_command_line(argv)
    checks.check(config, workdir)
    print("checked")

command.run(main)
"""


def run_command(tmp_path, *argv):
    """(the finished process, seconds of the processor that it took: those of a clock would be of other work too)."""
    spent = lambda: sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    (tmp_path / "command.py").write_text(SCRIPT)
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    before = spent()
    done = subprocess.run(
        [sys.executable, tmp_path / "command.py", *argv],
        cwd=tmp_path,
        env=env,
        timeout=60,
        capture_output=True,
        text=True,
    )
    return done, spent() - before


@pytest.mark.parametrize(
    "argv, part",
    [
        (["--config.modle.layers=2"], "Did you mean model.layers?"),
        (["--config.data.path=nowhere"], "data.path='nowhere'"),
        (["--workdir", "other"], "model.layers: 2 (checkpoint) != 4 (now)"),
        *slow(
            (["--config.model.layers=two"], "model.layers='two'"),
            (["--config.attention.strategy=rign"], "Did you mean 'ring'?"),
        ),
    ],
)
def test_a_command_says_it_in_one_line_quickly_and_changes_nothing(argv, part, tmp_path):
    config = configs.from_command_line(["command", *FILE, "--config.model.layers=2"])[0]
    checkpoint_of(dataclasses.asdict(config), tmp_path / "other")
    before = sorted(tmp_path.rglob("*"))
    done, seconds = run_command(tmp_path, *FILE, *argv)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and part in done.stderr
    assert seconds < 10  # 2 to 4 where it was measured
    assert sorted(tmp_path.rglob("*")) == sorted([*before, tmp_path / "command.py"])


def test_a_command_without_mistakes(tmp_path):
    done, _ = run_command(tmp_path, *FILE)
    assert (done.returncode, done.stdout, done.stderr) == (0, "checked\n", "")


def test_an_interrupt_ends_quietly_and_a_bug_keeps_its_traceback(capsys):
    def interrupted(argv):
        raise KeyboardInterrupt

    def broken(argv):
        return json.loads("{")

    with pytest.raises(SystemExit) as stopped:
        command.run(interrupted)
    assert stopped.value.code == 130 and capsys.readouterr().err == ""
    with pytest.raises(json.JSONDecodeError):
        command.run(broken)
