"""Checkpoints survive what happens to them: kills, damage, full disks, two runs, another mesh, another model."""

import errno
import json
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from longctx.checkpoints import checkpointer, manifest
from longctx.checkpoints.checkpointer import Checkpointer, abstract, load_latest
from longctx.errors import UserError
from tests.helpers import ROOT

WORKER = pathlib.Path(__file__).with_name("checkpoint_worker.py")


def make_state(step: int, dtype=jnp.float32):
    params = {"w": jax.random.normal(jax.random.key(step), (32, 48), dtype), "blocks": {"b": jnp.arange(3.0)}}
    return {"params": params, "opt": optax.adamw(1e-3).init(params), "step": jnp.int32(step)}


def save_steps(directory, *steps, keep=2):
    with Checkpointer(directory, keep) as checkpoints:
        for step in steps:
            checkpoints.save(step, make_state(step), {"next": step}, {"config": {"seed": step}})


def assert_same(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes()


def names(directory):
    return sorted(os.listdir(directory))


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    directory = tmp_path_factory.mktemp("saved") / "checkpoints"
    save_steps(directory, 10, 20)
    return directory


@pytest.fixture
def saved(two_steps, tmp_path):
    """A directory with sound steps 10 and 20, to be damaged."""
    return shutil.copytree(two_steps, tmp_path / "checkpoints")


def largest_file(step_dir):
    return max((p for p in (step_dir / "state").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def flip(path, bit=None):
    content = bytearray(path.read_bytes())
    bit = len(content) * 4 if bit is None else bit
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


# ---- saving and restoring


def test_restores_everything_that_was_saved(saved):
    with Checkpointer(saved) as checkpoints:
        found = checkpoints.restore_latest(abstract(make_state(0)))
    assert (found.step, found.data, found.meta, found.notes) == (20, {"next": 20}, {"config": {"seed": 20}}, ())
    assert_same(found.state, make_state(20))


def test_an_empty_directory_is_a_new_run(tmp_path):
    with Checkpointer(tmp_path / "new" / "checkpoints") as checkpoints:
        assert checkpoints.restore_latest(abstract(make_state(0))) is None
    with pytest.raises(UserError, match="no checkpoint in"):
        load_latest(tmp_path / "new" / "checkpoints", abstract(make_state(0)))


def test_arrays_may_be_donated_and_json_changed_as_soon_as_save_returns(tmp_path):
    overwrite = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0 - 1, tree), donate_argnums=0)
    big = {"w": jax.random.normal(jax.random.key(0), (1500, 1500))}
    want, data = np.array(big["w"]), {"next": [1]}
    with Checkpointer(tmp_path) as checkpoints:
        checkpoints.save(1, big, data, {})
        data["next"].append(2)
        jax.block_until_ready(overwrite(big))
    found = load_latest(tmp_path, {"w": jax.ShapeDtypeStruct((1500, 1500), jnp.float32, sharding=big["w"].sharding)})
    assert found.data == {"next": [1]} and np.array_equal(found.state["w"], want)


def test_keeps_the_newest_and_saving_a_sealed_step_again_changes_nothing(tmp_path):
    save_steps(tmp_path, 1, 2, 3, 4, keep=2)
    assert names(tmp_path) == ["3", "4", "LOCK"]
    before = (tmp_path / "4" / manifest.NAME).stat().st_mtime_ns
    save_steps(tmp_path, 4)
    assert (tmp_path / "4" / manifest.NAME).stat().st_mtime_ns == before


@pytest.mark.parametrize("shape", [(4, 2), (2, 1), (1, 1)], ids=str)
def test_restores_on_another_mesh(tmp_path, shape):
    def place(shape):
        mesh = jax.make_mesh(
            shape,
            ("data", "fsdp"),
            devices=jax.devices()[: shape[0] * shape[1]],
            axis_types=(jax.sharding.AxisType.Explicit,) * 2,
        )
        spec = {"w": jax.P("data", "fsdp"), "b": jax.P("fsdp"), "step": jax.P()}
        return {name: jax.NamedSharding(mesh, s) for name, s in spec.items()}

    whole = {
        "w": np.random.default_rng(0).standard_normal((16, 8), np.float32),
        "b": np.arange(8.0, dtype=np.float32),
        "step": np.int32(3),
    }
    with Checkpointer(tmp_path) as checkpoints:
        checkpoints.save(3, jax.device_put(whole, place((2, 4))), {}, {})
    target = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), whole, place(shape))
    with Checkpointer(tmp_path) as checkpoints:
        state = checkpoints.restore_latest(target).state
    assert_same(state, whole)
    assert all(leaf.sharding == target[name].sharding for name, leaf in state.items())


def test_a_part_of_the_state_can_be_read_while_a_run_holds_the_directory(saved):
    with Checkpointer(saved):
        found = load_latest(saved, {"params": abstract(make_state(0)["params"])})
    assert found.step == 20
    assert_same(found.state, {"params": make_state(20)["params"]})


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda s: s | {"params": make_state(0, jnp.bfloat16)["params"]},
            r"params\.w is float32\[32, 48\] in it and bfloat16\[32, 48\] now",
        ),
        (lambda s: s | {"step": jnp.zeros(2, jnp.int32)}, r"step is int32\[\] in it and int32\[2\] now"),
        (lambda s: s | {"ema": jnp.zeros(2)}, r"ema is absent in it and float32\[2\] now"),
        (lambda s: {k: v for k, v in s.items() if k != "step"}, r"step is int32\[\] in it and absent now"),
    ],
    ids=["dtype", "shape", "new leaf", "missing leaf"],
)
def test_another_model_is_refused_by_leaf_name(saved, change, message):
    with Checkpointer(saved) as checkpoints, pytest.raises(UserError, match=message):
        checkpoints.restore_latest(abstract(change(make_state(0))))
    assert "20" in names(saved)  # a wrong model is not damage


# ---- damage


def empty(step_dir):
    shutil.rmtree(step_dir)
    step_dir.mkdir()


def swap(step_dir):
    shutil.rmtree(step_dir)
    shutil.copytree(step_dir.with_name("10"), step_dir)


def rewrite(step_dir, **changes):
    """A manifest with other fields, and the checksum of those."""
    body = manifest.read(step_dir)._asdict() | changes
    (step_dir / manifest.NAME).write_text(json.dumps({"sha256": manifest._digest(body), "body": body}))


DAMAGE = {
    "flip": (lambda d: flip(largest_file(d)), r"state/\S+ has changed"),
    "truncate": (lambda d: os.truncate(largest_file(d), 7), r"state/\S+ has 7 bytes instead of \d+"),
    "delete": (lambda d: largest_file(d).unlink(), r"state/\S+ is missing"),
    "no manifest": (lambda d: (d / manifest.NAME).unlink(), "MANIFEST.json is missing"),
    "flipped manifest": (lambda d: flip(d / manifest.NAME), "MANIFEST.json (has changed|cannot be read)"),
    "cut manifest": (lambda d: os.truncate(d / manifest.NAME, 50), "MANIFEST.json cannot be read"),
    "empty": (empty, "the directory is empty"),
    "swapped": (swap, "MANIFEST.json is that of step 10"),
    "deep manifest": (lambda d: (d / manifest.NAME).write_text("[" * 100_000), "MANIFEST.json cannot be read"),
    "manifest as a folder": (lambda d: ((d / manifest.NAME).unlink(), (d / manifest.NAME).mkdir()), "Is a directory"),
    "later version": (lambda d: rewrite(d, later=1), "MANIFEST.json is that of another version"),
    "mistyped": (lambda d: rewrite(d, files={"state": 7}), "MANIFEST.json is that of another version"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named_set_aside_and_the_step_before_is_used(saved, kind):
    do_damage, problem = DAMAGE[kind]
    do_damage(saved / "20")
    with Checkpointer(saved) as checkpoints:
        found = checkpoints.restore_latest(abstract(make_state(0)))
        assert found.step == 10
        assert_same(found.state, make_state(10))
        (note,) = found.notes
        assert note.startswith("step 20 is damaged") and note.endswith("now damaged-00000020, and step 10 is used")
        assert re.search(problem, note), note
        checkpoints.save(20, make_state(20), {"next": 20}, {})
    assert names(saved) == ["10", "20", "LOCK", "damaged-00000020"]
    flip(largest_file(saved / "20"))
    with Checkpointer(saved) as checkpoints:
        assert checkpoints.restore_latest(abstract(make_state(0))).step == 10
    assert names(saved) == ["10", "LOCK", "damaged-00000020", "damaged-00000020-2"]


def test_reading_names_damage_and_moves_nothing(saved):
    flip(largest_file(saved / "20"))
    found = load_latest(saved, abstract(make_state(0)))
    assert found.step == 10 and "step 20 is damaged" in found.notes[0]
    assert names(saved) == ["10", "20", "LOCK"]


def test_only_damaged_steps_never_start_from_scratch(saved):
    for step in (10, 20):
        flip(largest_file(saved / str(step)))
    for _ in range(2):  # also when started again
        with Checkpointer(saved) as checkpoints, pytest.raises(UserError, match="step 20: .*; step 10: "):
            checkpoints.restore_latest(abstract(make_state(0)))
    (saved / "20").rename(saved / "damaged-00000020")
    shutil.rmtree(saved / "10")
    with Checkpointer(saved) as checkpoints, pytest.raises(UserError, match="only damaged"):
        checkpoints.restore_latest(abstract(make_state(0)))


def test_every_flipped_bit_is_found(saved):
    step_dir = saved / "20"
    files = [step_dir / manifest.NAME, *(step_dir / name for name in manifest.verify(step_dir).files)]
    draw = random.Random(0)
    for _ in range(150):
        path = draw.choice([p for p in files if p.stat().st_size])
        bit = draw.randrange(path.stat().st_size * 8)
        flip(path, bit)
        with pytest.raises(manifest.Damaged):
            manifest.verify(step_dir)
        flip(path, bit)
    assert manifest.verify(step_dir).step == 20


def test_folders_that_only_look_like_steps_are_nobodys(saved):
    others = ["0974", "\u0661\u0662", "00", "1_000", "9" * 200]
    for name in others:
        (saved / name).mkdir()
    (saved / "30").write_text("a file")
    assert manifest.steps(saved) == [20, 10]
    with Checkpointer(saved) as checkpoints:
        assert checkpoints.restore_latest(abstract(make_state(0))).step == 20
        checkpoints.save(21, make_state(21), {}, {})
    assert names(saved) == sorted(["20", "21", "30", "LOCK", *others])


# ---- failing saves


def test_the_manifest_is_written_before_the_step_gets_its_name(tmp_path, monkeypatch):
    seen, write = [], manifest.write

    def spy(step_dir, body):
        seen.append((step_dir.name, names(tmp_path)))
        write(step_dir, body)

    monkeypatch.setattr(manifest, "write", spy)
    save_steps(tmp_path, 1, 2, keep=1)
    assert seen == [
        ("1.orbax-checkpoint-tmp", ["1.orbax-checkpoint-tmp", "LOCK"]),
        ("2.orbax-checkpoint-tmp", ["1", "2.orbax-checkpoint-tmp", "LOCK"]),
    ]


@pytest.fixture
def disk(monkeypatch):
    """A disk that has no room for a manifest while `disk.full`: the last moment at which a save can fail."""
    disk, write = types.SimpleNamespace(full=True), manifest.write

    def write_or_fail(step_dir, body):
        if disk.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(step_dir, body)

    monkeypatch.setattr(manifest, "write", write_or_fail)
    return disk


def test_a_failure_in_the_background_surfaces_in_poll_and_costs_nothing_else(tmp_path, disk):
    disk.full = False
    save_steps(tmp_path, 1, keep=1)
    disk.full = True
    with Checkpointer(tmp_path, keep=1) as checkpoints:
        checkpoints.save(2, make_state(2), {}, {})
        with pytest.raises(UserError, match="step 2 could not be written to .*: No space left on device") as caught:
            for _ in range(1000):
                checkpoints.poll()
                time.sleep(0.01)
        assert "\n" not in str(caught.value)
        assert names(tmp_path) == ["1", "LOCK"]  # the only sealed step is still there, the failed one is gone
        disk.full = False
        checkpoints.save(3, make_state(3), {}, {})
    assert names(tmp_path) == ["3", "LOCK"]
    assert load_latest(tmp_path, abstract(make_state(0))).step == 3


@pytest.mark.parametrize("call", ["save", "wait", "close"])
def test_a_failure_nobody_polled_for_surfaces_later(tmp_path, disk, call):
    checkpoints = Checkpointer(tmp_path)
    checkpoints.save(1, make_state(1), {}, {})
    with pytest.raises(UserError, match="step 1 could not be written"):
        checkpoints.save(2, make_state(2), {}, {}) if call == "save" else getattr(checkpoints, call)()
    checkpoints.close()
    with Checkpointer(tmp_path):  # the lock is free
        assert names(tmp_path) == ["LOCK"]


def test_leaving_the_block_raises_a_failure_unless_another_error_is_in_flight(tmp_path, disk):
    with pytest.raises(UserError, match="step 1 could not be written"):
        with Checkpointer(tmp_path) as checkpoints:
            checkpoints.save(1, make_state(1), {}, {})
    with pytest.raises(KeyError, match="mine") as caught:
        with Checkpointer(tmp_path) as checkpoints:
            checkpoints.save(1, make_state(1), {}, {})
            raise KeyError("mine")
    assert "step 1 could not be written" in caught.value.__notes__[0]


def test_too_little_space_is_said_before_anything_is_written(saved, monkeypatch):
    usage = shutil.disk_usage(saved)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=5_000))
    message = r"step 30 needs 1\.\d MB in .* and 0\.0 MB are free"
    with Checkpointer(saved) as checkpoints, pytest.raises(UserError, match=message):
        checkpoints.save(30, make_state(30), {}, {})
    assert names(saved) == ["10", "20", "LOCK"]


def run_worker(*args, timeout=120):
    return subprocess.run(
        [sys.executable, WORKER, *map(str, args)], env=worker_env(), text=True, capture_output=True, timeout=timeout
    )


def worker_env():
    return os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "NPROC": "2"}


def test_a_file_size_limit_is_one_clear_line_and_training_goes_on(tmp_path):
    result = run_worker("limit", tmp_path)
    assert result.returncode == 0, result.stderr
    error, listing, restored = result.stdout.splitlines()
    assert error.startswith(f"The checkpoint of step 2 could not be written to {tmp_path}: File too large (")
    assert (listing, restored) == ("1 LOCK", "3")


def test_a_full_disk_leaves_earlier_steps_readable(tmp_path, monkeypatch):
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", tmp_path], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    state = {"w": jax.random.normal(jax.random.key(0), (400, 750))}  # 1.2 MB, hardly compressible
    monkeypatch.setattr(checkpointer, "_require_space", lambda *_: None)  # somebody else fills the disk meanwhile
    try:
        with Checkpointer(tmp_path) as checkpoints:
            checkpoints.save(1, state, {}, {})
            checkpoints.save(2, state, {}, {})
            checkpoints.save(3, state, {}, {})
            with pytest.raises(UserError, match="step 3 could not be written to .*: No space left on device"):
                checkpoints.wait()
            assert names(tmp_path) == ["1", "2", "LOCK"]
        assert_same(load_latest(tmp_path, abstract(state)).state, state)
    finally:
        subprocess.run(["umount", tmp_path], check=True)


# ---- other runs, other directories


def test_a_second_run_is_refused_until_the_first_ends(tmp_path):
    with Checkpointer(tmp_path):
        with pytest.raises(UserError, match=rf"{tmp_path} is in use by process {os.getpid()} on "):
            Checkpointer(tmp_path)
    Checkpointer(tmp_path).close()


def test_leftovers_of_a_crash_are_removed_and_named(saved):
    (saved / "30.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    (saved / "deleting-00000005" / "state").mkdir(parents=True)
    with Checkpointer(saved) as checkpoints:
        assert checkpoints.restore_latest(abstract(make_state(0))).notes == ("step 30: an unfinished save was removed",)
    assert names(saved) == ["10", "20", "LOCK"]


@pytest.mark.parametrize(
    "directory, keep, message",
    [
        ("gs://bucket/run", 2, "gs://bucket/run must be on a mounted file system"),
        (WORKER / "x", 2, "cannot be used: Not a directory"),
        ("unused", 0, "checkpoint.keep=0"),
    ],
)
def test_an_unusable_directory_is_one_clear_line(directory, keep, message):
    with pytest.raises(UserError, match=message):
        Checkpointer(directory, keep)


# ---- kills

EVERY, STEPS = 4, 60


def kill_once(directory, after_steps: int, delay: float):
    """Kills the loop `delay` seconds after that many steps. (first step, last step, notes, final digest or None)"""
    command = [sys.executable, WORKER, "train", directory, str(STEPS), str(EVERY)]
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(command, env=worker_env(), text=True, stdout=subprocess.PIPE, stderr=errors) as process,
    ):
        printed = "".join(process.stdout.readline() for _ in range(1 + after_steps))
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            process.kill()
        printed += process.stdout.read()
        process.wait(60)
        errors.seek(0)
        assert process.returncode in (0, -9) and printed.startswith("start\t"), errors.read()
    whole = printed[: printed.rfind("\n") + 1]  # the last line may be half written
    lines = [line.split("\t") for line in whole.splitlines()]
    steps = [int(line[1]) for line in lines if line[0] in ("start", "step")]
    final = [line[1] for line in lines if line[0] == "final"]
    return steps[0], steps[-1], lines[0][2:], final[0] if final else None


def kill_and_resume(directory, kills, seed):
    want = run_worker("train", directory / "reference", STEPS, EVERY).stdout.split()[-1]
    draw, killed, unfinished, last, final = random.Random(seed), 0, 0, 0, None
    run = directory / "killed"
    while final is None:
        delay = draw.random() * 0.12 if killed < kills else 60
        start, reached, notes, final = kill_once(run, draw.randint(1, 2 * EVERY) if killed < kills else 0, delay)
        assert start >= last - 2 * EVERY, f"resumed at {start} after {last}"  # one interval, and one save in flight
        assert not any("damaged" in note for note in notes), notes
        unfinished += len(notes)
        killed, last = killed + (final is None), reached
        if final is not None and killed < kills:  # finished too early: another run, with the kills that are left
            assert final == want
            run, last, final = directory / f"killed-{killed}", 0, None
    assert final == want
    return killed, unfinished


@pytest.mark.slow
def test_killed_at_any_moment_it_resumes_bit_for_bit(tmp_path):
    killed, _ = kill_and_resume(tmp_path, kills=8, seed=0)
    assert killed == 8


@pytest.mark.nightly
def test_killed_often_it_resumes_bit_for_bit(tmp_path):
    killed, unfinished = kill_and_resume(tmp_path, kills=48, seed=1)
    assert killed == 48 and unfinished >= 5  # many of them inside a save
