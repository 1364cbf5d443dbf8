"""Programs that commands keep: a second start compiles nothing, and the environment can say no."""

import os
import subprocess
import sys

import pytest

from experiments.run import compile_cache
from tests.helpers import ROOT, slow

PROGRAM = """
import jax
from experiments.run import compile_cache, processes
from longctx.config import MeshConfig
compile_cache.WORTH = 0
events = []
jax.monitoring.register_event_listener(lambda name, **_: events.append(name))
processes.start(MeshConfig())
step = jax.jit(lambda x: jax.lax.fori_loop(0, 9, lambda i, y: jax.numpy.sin(y @ x).astype(x.dtype), x))
print(float(step(jax.numpy.ones((8, 8))).sum()), sum("cache_hits" in name for name in events))
"""


def start(tmp_path, **environment) -> tuple[str, int]:
    """(what the program computes, how many of its programs were kept from before)."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_COMP", compile_cache.OFF))}
    env |= {"LONGCTX_CACHE": str(tmp_path / "cache"), "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"} | environment
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    number, hits = done.stdout.split()
    return number, int(hits)


def test_a_second_start_compiles_nothing(tmp_path):
    number, hits = start(tmp_path)
    assert hits == 0 and list((tmp_path / "cache" / "compiled").rglob("*-cache"))
    again, hits = start(tmp_path)
    assert again == number and hits >= 1


@pytest.mark.parametrize("environment", [{compile_cache.OFF: "0"}, *slow({"JAX_COMPILATION_CACHE_DIR": "elsewhere"})])
def test_the_environment_can_say_no(tmp_path, environment):
    if "JAX_COMPILATION_CACHE_DIR" in environment:
        environment = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "elsewhere")}
    start(tmp_path, **environment)
    assert not (tmp_path / "cache").exists()


def test_the_oldest_go(tmp_path):
    for i, size in enumerate((100, 100, 100)):
        path = tmp_path / "jax" / str(i)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(size))
        os.utime(path, (i, i))
    compile_cache.trim(tmp_path, 250)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["1", "2"]
    compile_cache.trim(tmp_path, 250)
    assert len(list((tmp_path / "jax").iterdir())) == 2
