"""Compiled programs, kept in the user's cache folder so that a second start of a command compiles nothing.

JAX finds a program by its code, its options, the versions of jax and XLA and the kind of device. A program for a CPU
also holds that CPU's instructions, so that hosts with other ones have folders of their own.
"""

import os
import pathlib
import platform
import zlib

from longctx import caches

OFF = "LONGCTX_COMPILE_CACHE"  # =0 in the environment: nothing is kept
MOST = 4 << 30  # bytes; the oldest programs go when a command starts
WORTH = 0.2  # seconds of compiling that are worth a file


def use() -> None:
    """Lets jax keep its programs, unless the environment says otherwise or names another folder
    (JAX_COMPILATION_CACHE_DIR)."""
    import jax

    if os.environ.get(OFF, "") in ("0", "off") or jax.config.jax_compilation_cache_dir is not None:
        return
    folder = caches.folder("compiled") / f"jax-{jax.__version__}-{_host():08x}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trim(folder.parent, MOST)
    except OSError:  # a home that cannot be written: compile as ever
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", WORTH)


def trim(folder: pathlib.Path, most: int) -> None:
    """Removes the oldest files below a folder until the rest have at most `most` bytes."""
    files = sorted(((path.stat(), path) for path in folder.rglob("*") if path.is_file()), key=lambda f: -f[0].st_mtime)
    total = 0
    for status, path in files:
        total += status.st_size
        if total > most:
            path.unlink(missing_ok=True)


def _host() -> int:
    """A checksum of what this host's CPUs can do."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        told = "\n".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))
    except OSError:
        told = platform.processor()
    return zlib.crc32(f"{platform.machine()} {told}".encode())
