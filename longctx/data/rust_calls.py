"""Calls into `tokenizers`, a library in Rust, whose failures become one line. Free of jax."""
import os
import sys
import tempfile
import threading

from longctx.errors import UserError

_STDERR = 2
_lock = threading.RLock()       # file descriptor 2 is one for all threads


class RustCall:
    """`with RustCall(what):` around a call: a failure that the library has no class for becomes a UserError.

    Such failures are an `Exception` of no narrower class, and a panic: pyo3_runtime.PanicException, which no module
    exports and which is no Exception. `what` starts the line. Everything else, Ctrl-C among it, passes. What a panic
    wrote on standard error is left out; anything else that was written there meanwhile follows after the call.
    """

    def __init__(self, what: str):
        self.what = what

    def __enter__(self):
        _lock.acquire()
        self._written = tempfile.TemporaryFile()
        self._terminal = _copy_of_stderr()
        if self._terminal is not None:
            os.dup2(self._written.fileno(), _STDERR)

    def __exit__(self, kind, error, traceback):
        panic = kind is not None and kind.__module__ == "pyo3_runtime"
        if self._terminal is not None:
            sys.stderr.flush()
            os.dup2(self._terminal, _STDERR)
            os.close(self._terminal)
            self._written.seek(0)
            while not panic and (part := self._written.read(1 << 20)):
                os.write(_STDERR, part)
        self._written.close()
        _lock.release()
        if panic or kind is Exception:
            reason = str(error).splitlines()[0] if str(error) else kind.__name__
            raise UserError(f"{self.what}: `tokenizers` stopped with {reason!r}.") from error


def _copy_of_stderr() -> int | None:
    """None where it is closed, as that of a daemon may be."""
    try:
        return os.dup(_STDERR)
    except OSError:
        return None
