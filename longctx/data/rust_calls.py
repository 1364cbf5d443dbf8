"""Calls into `tokenizers`, a library in Rust, whose failures become one line. Free of jax."""

import contextlib
import os
import sys
import tempfile

from longctx.errors import UserError

_STDERR = 2


class RustCall:
    """`with RustCall(what):` around a call: a failure that the library has no class for becomes a UserError.

    Such failures are an `Exception` of no narrower class, and a panic: pyo3_runtime.PanicException, which no module
    exports and which is no Exception. `what` starts the line. Everything else, Ctrl-C among it, passes.
    """

    def __init__(self, what: str):
        self.what = what

    def __enter__(self):
        pass

    def __exit__(self, kind, error, traceback):
        if kind is Exception or _is_panic(kind):
            reason = str(error).splitlines()[0] if str(error) else kind.__name__
            raise UserError(f"{self.what}: `tokenizers` stopped with {reason!r}.") from error


@contextlib.contextmanager
def panics_unreported():
    """Leaves out what a panic inside writes on standard error; anything else that is written there follows at the end.

    File descriptor 2 belongs to all threads, so this is for the time before a command starts any: around the loading of
    a file, which is what may be damaged.
    """
    with contextlib.ExitStack() as stack:
        try:
            terminal = os.dup(_STDERR)
            stack.callback(os.close, terminal)
            written = stack.enter_context(tempfile.TemporaryFile())
        except OSError:  # closed, as that of a daemon may be, or no room for a file
            yield
            return
        os.dup2(written.fileno(), _STDERR)
        try:
            yield
        finally:
            panic = _is_panic(sys.exc_info()[0])
            sys.stderr.flush()
            os.dup2(terminal, _STDERR)
            written.seek(0)
            while not panic and (part := written.read(1 << 20)):
                os.write(_STDERR, part)


def _is_panic(kind: type | None) -> bool:
    return kind is not None and kind.__module__ == "pyo3_runtime"
