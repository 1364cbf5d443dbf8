"""Several processes as one run: the same command is started once on every host, and the environment says so.

Nothing here imports jax before `start`, and on a single host nothing happens at all.
"""

import contextlib
import os
import pathlib
import sys

from experiments.run import compile_cache, joining
from experiments.settings.environment import count, number
from longctx import locks
from longctx.config import MeshConfig
from longctx.errors import UserError

STOPPED = "LONGCTX_STOPPED_CODE"


def start(config: MeshConfig):
    """The mesh of `config` over the devices of all processes, which find each other first. Call before jax is used.

    From here on only process 0 writes to stdout, and an error in any process ends it at once (see `end`).

    Raises:
      UserError: when the environment does not say enough, or the mesh does not fit the devices.
    """
    import jax

    from longctx import meshes

    stopped_code()  # while a mistake in it costs nothing
    processes = count()
    if processes == 1:  # of several, some would find a program that others compile
        compile_cache.use()
    else:
        joining.join()
        sys.excepthook = _report_and_end
    if config.simulate:
        meshes.simulate(config.simulate, processes)
    mesh = meshes.make(config)
    if jax.process_index():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")
    return mesh


def check_same(number: int, message: str) -> None:
    """Raises UserError(message) where a number below 2**32 is not the same in all processes."""
    import jax

    if jax.process_count() > 1:
        import numpy as np
        from jax.experimental import multihost_utils

        if len(set(multihost_utils.process_allgather(np.uint32(number)).tolist())) > 1:
            raise UserError(message)


def hold(workdir: pathlib.Path) -> contextlib.AbstractContextManager:
    """A context that no second process can enter for the same workdir, which is made; of several, process 0 enters.

    Raises UserError where a process that runs is in it; one that was killed is not.
    """
    import jax

    if jax.process_index():
        return contextlib.nullcontext()
    return locks.take(workdir, f"--workdir={str(workdir)!r}", "wait for its end, stop it, or name another --workdir")


def end(code: int) -> None:
    """Ends this process with an exit code; as one of several without goodbye.

    An ordinary exit waits minutes for the other processes, which wait for this one. jax ends them once it is gone.
    """
    jax = sys.modules.get("jax")
    if jax and jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def stopped_code() -> int:
    """The exit code of a run that was asked to stop and has: STOPPED in the environment, or 0.

    What starts a run again until it is done gives another than 0, to tell it from one that is.
    """
    return number(STOPPED, 0) or 0


def _report_and_end(kind, error, traceback) -> None:
    sys.__excepthook__(kind, error, traceback)
    end(1)
