"""States that a save refuses, steps that it never replaces, and changes that others make to the directory meanwhile."""

import fcntl
import json
import os
import shutil

import jax
import jax.numpy as jnp
import pytest

from longctx.checkpoints import directory, manifest
from longctx.checkpoints.checkpointer import Checkpointer, abstract, load_latest
from longctx.errors import UserError
from tests.longctx.checkpoints.test_checkpointer import assert_same, flip, largest_file, make_state, names, save_steps


@pytest.fixture
def saved(tmp_path):
    """A directory with sound steps 10 and 20."""
    save_steps(tmp_path / "checkpoints", 10, 20)
    return tmp_path / "checkpoints"


# ---- states that are not finite


@pytest.mark.parametrize(
    "spoil, leaf",
    [
        (lambda s: s["params"]["w"].at[3, 5].set(jnp.nan), r"params\.w"),
        (lambda s: s["params"]["w"].astype(jnp.bfloat16).at[0, 0].set(-jnp.inf), r"params\.w"),
    ],
)
def test_a_state_that_is_not_finite_is_refused_by_leaf_name(saved, spoil, leaf):
    state = make_state(30)
    state["params"]["w"] = spoil(state)
    with Checkpointer(saved, keep=1) as checkpoints:
        with pytest.raises(UserError, match=rf"step 30 is not saved: {leaf} holds a number that is not finite"):
            checkpoints.save(30, state, {}, {})
        assert names(saved) == ["10", "20", "LOCK"]
        state["opt"] = jax.tree.map(lambda x: x / 0 if x.dtype == jnp.float32 else x, state["opt"])
        with pytest.raises(UserError, match=r"opt\.\S+ and \d+ more leaves hold numbers that are not finite"):
            checkpoints.save(30, state, {}, {})
    assert load_latest(saved, abstract(make_state(0))).step == 20


def test_a_save_that_takes_the_place_of_none_deletes_none(saved):
    with Checkpointer(saved, keep=1) as checkpoints:
        checkpoints.save(30, make_state(30), {}, {}, in_place_of_older=False)
        checkpoints.wait()
        assert names(saved) == ["10", "20", "30", "LOCK"]
        checkpoints.save(40, make_state(40), {}, {})
    assert names(saved) == ["40", "LOCK"]


# ---- steps that are kept for good


def kept_for_good(path):
    return [step for step in sorted(manifest.steps(path)) if manifest.is_for_good(path / str(step))]


def test_every_third_saved_step_is_kept_for_good_also_over_restarts(tmp_path):
    for steps in ((1, 10), (20, 25), (30, 40), (50, 60)):  # the third, the sixth
        with Checkpointer(tmp_path, keep=1, keep_every=3) as checkpoints:
            checkpoints.restore_latest(abstract(make_state(0)))
            for step in steps:
                checkpoints.save(step, make_state(step), {}, {})
    assert names(tmp_path) == ["20", "40", "60", "LOCK"] and kept_for_good(tmp_path) == [20, 40]
    save_steps(tmp_path, 70, keep=1)  # without keep_every what is kept stays so
    assert names(tmp_path) == ["20", "40", "70", "LOCK"]
    (tmp_path / "20" / manifest.NAME).write_text("{")  # it may be one of them
    save_steps(tmp_path, 80, keep=1)
    assert names(tmp_path) == ["20", "40", "80", "LOCK"]


def test_a_failed_save_does_not_count(saved, monkeypatch):
    with Checkpointer(saved, keep=1, keep_every=2) as checkpoints:
        checkpoints.save(30, make_state(30), {}, {})
        checkpoints.wait()
        with monkeypatch.context() as patch:
            patch.setattr(manifest, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
            checkpoints.save(40, make_state(40), {}, {})
            with pytest.raises(UserError, match="step 40 could not be written"):
                checkpoints.wait()
        checkpoints.save(50, make_state(50), {}, {})
        checkpoints.save(60, make_state(60), {}, {})
    assert names(saved) == ["50", "60", "LOCK"] and kept_for_good(saved) == [50]


def test_a_manifest_of_before_steps_were_kept_for_good_is_read(saved):
    body = manifest.read(saved / "20")._asdict()
    del body["since"]
    (saved / "20" / manifest.NAME).write_text(json.dumps({"sha256": manifest._digest(body), "body": body}))
    with Checkpointer(saved, keep=1, keep_every=2) as checkpoints:
        assert checkpoints.restore_latest(abstract(make_state(0))).step == 20
        checkpoints.save(30, make_state(30), {}, {})
    assert names(saved) == ["30", "LOCK"] and kept_for_good(saved) == [30]


def test_fewer_than_none_are_refused(saved):
    with pytest.raises(UserError, match="checkpoint.keep_every=-1 must be at least 0"):
        Checkpointer(saved, keep_every=-1)


# ---- another step to continue from


def test_going_back_sets_later_steps_aside_and_the_run_goes_on_there(saved):
    with Checkpointer(saved) as checkpoints:
        checkpoints.go_back(10)
        found = checkpoints.restore_latest(abstract(make_state(0)))
        assert found.step == 10 and found.notes == ("set aside: aside-00000020",)
        checkpoints.save(20, make_state(20), {}, {})
        checkpoints.wait()
        checkpoints.go_back(20)
        assert names(saved) == ["10", "20", "LOCK", "aside-00000020"]
        checkpoints.go_back(10)
    assert names(saved) == ["10", "LOCK", "aside-00000020", "aside-00000020-2"]
    assert [(entry.step, entry.state) for entry in directory.found(saved)] == [
        (20, "set aside"),
        (20, "set aside"),
        (10, "sound"),
    ]


def test_going_back_to_a_damaged_step_changes_nothing(saved):
    flip(largest_file(saved / "10"))
    with Checkpointer(saved) as checkpoints, pytest.raises(UserError, match=r"Step 10 in .* is damaged \(state/"):
        checkpoints.go_back(10)
    assert names(saved) == ["10", "20", "LOCK"]


def test_starting_over_sets_everything_aside_also_what_is_damaged(saved):
    (saved / "10").rename(saved / "damaged-00000010")
    flip(largest_file(saved / "20"))
    with Checkpointer(saved) as checkpoints:
        checkpoints.go_back(None)
        assert checkpoints.notes == ["set aside: aside-00000020, aside-damaged-00000010"]
        assert checkpoints.restore_latest(abstract(make_state(0))) is None
    with Checkpointer(saved) as checkpoints:  # nor does the next start stop there
        assert checkpoints.restore_latest(abstract(make_state(0))) is None
        checkpoints.go_back(None)
        assert not checkpoints.notes
    assert [entry.path.name for entry in directory.found(saved)] == ["aside-00000020", "aside-damaged-00000010"]


# ---- what others do to the directory meanwhile


def test_a_later_folder_that_appears_hides_nothing(saved):
    with Checkpointer(saved, keep=1) as checkpoints:
        (saved / "99999").mkdir()
        (saved / "40").mkdir()
        checkpoints.save(30, make_state(30), {}, {})
        checkpoints.wait()
        assert names(saved) == ["30", "40", "99999", "LOCK"]  # its own newest is kept
        checkpoints.save(40, make_state(40), {}, {})
        (note,) = checkpoints.notes
    assert note == (
        "step 40 is damaged (the directory is empty); it is now damaged-00000040, and the run's own takes its place"
    )
    with Checkpointer(saved) as checkpoints:
        found = checkpoints.restore_latest(abstract(make_state(0)))
    assert found.step == 40 and "step 99999 is damaged" in found.notes[0]
    assert_same(found.state, make_state(40))


@pytest.mark.parametrize("moment", ["before a save", "in a save"])
def test_a_directory_that_vanishes_is_one_clear_line(saved, moment, monkeypatch):
    write = manifest.write
    if moment == "in a save":
        monkeypatch.setattr(manifest, "write", lambda *args: (shutil.rmtree(saved), write(*args)))
    with pytest.raises(UserError, match=rf"step 30 could not be written: {saved} was removed") as caught:
        with Checkpointer(saved) as checkpoints:
            if moment == "before a save":
                shutil.rmtree(saved)
            checkpoints.save(30, make_state(30), {}, {})
            checkpoints.wait()
    assert "\n" not in str(caught.value)


def test_a_lock_that_was_removed_is_taken_again_or_the_other_run_is_named(saved):
    with Checkpointer(saved) as checkpoints:
        (saved / "LOCK").unlink()
        checkpoints.save(30, make_state(30), {}, {})
        checkpoints.wait()
        with pytest.raises(UserError, match="is in use by process"):
            Checkpointer(saved)
        (saved / "LOCK").unlink()
        with Checkpointer(saved), pytest.raises(UserError, match=f"is in use by process {os.getpid()} on "):
            checkpoints.save(40, make_state(40), {}, {})


def test_a_lock_that_holds_no_text_is_still_a_lock(tmp_path):
    (tmp_path / "LOCK").write_bytes(b"\xff\x00\n\n" * 1000)
    with open(tmp_path / "LOCK", "a+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="is in use by process") as caught:
            Checkpointer(tmp_path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
