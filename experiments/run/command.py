"""The frame around the main of every command: what goes wrong for a reason of the user's is one line."""

import errno
import logging as std_logging
import os
import pathlib
import re
import sys
import warnings
from collections.abc import Callable

from absl import logging

from experiments.run import processes
from experiments.settings.console import complain
from longctx.errors import UserError

_DISK = errno.ENOSPC, errno.EDQUOT, errno.EROFS  # no mistake of the code that writes


def run(main: Callable[[list[str]], None]) -> None:
    """Calls main(sys.argv). A UserError, a full device and a full disk become one line on stderr and exit code 2, an
    interrupt exit code 130."""
    logging.set_verbosity(logging.FATAL)  # orbax reports through absl
    std_logging.getLogger("asyncio").setLevel(std_logging.CRITICAL)
    sys.unraisablehook = _unraisable
    # A save that failed leaves tensorstore coroutines behind; when they are collected is a matter of chance.
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    try:
        main(sys.argv)
    except UserError as error:
        processes.end(complain(error))
    except KeyboardInterrupt:
        processes.end(130)
    except RuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):  # jax's, whose type is not here yet when a setting is wrong
            raise
        processes.end(complain(_out_of_memory(error)))
    except OSError as error:
        if error.errno in _DISK:
            processes.end(
                complain(
                    f"{error.filename or 'a result'} cannot be written: {error.strerror}. Make room, or "
                    "give another folder."
                )
            )
        elif _has_gone(error):
            processes.end(
                complain(
                    f"{pathlib.Path(error.filename).parent} has gone while the command ran; "
                    f"{error.filename} cannot be read or written."
                )
            )
        else:
            raise


def _has_gone(error: OSError) -> bool:
    """Whether a folder was removed under a command: those that it is given are looked at before it begins."""
    path = error.filename if isinstance(error, FileNotFoundError) else None
    return isinstance(path, str | os.PathLike) and not pathlib.Path(path).parent.exists()


def _out_of_memory(error: RuntimeError) -> UserError:
    """The error for a full device: what did not fit, in a line, and which settings take less."""
    message = re.search(r"RESOURCE_EXHAUSTED: (.*)", str(error))
    return UserError(
        f"a device has too little memory: {message[1].strip()} More devices take less each; so do shorter "
        "rows (stages[i].seq_len, eval.lengths), fewer in a step (batch_tokens), memory.loss_tiles, "
        "model.remat='layer' or 'offload_layer', memory.offload=('moments',); experiments.plan tells what "
        "of it would do."
    )


def _unraisable(problem) -> None:
    """tensorstore threads still writing when a save has failed and orbax has closed its loop have nothing to add."""
    if str(problem.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(problem)
