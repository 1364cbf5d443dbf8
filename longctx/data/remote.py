"""Files at addresses such as gs://bucket/folder, through fsspec. Free of jax and grain."""

import importlib.util
import posixpath
import re
from collections import Counter
from typing import Any, BinaryIO, cast

from longctx.data.folders import File
from longctx.errors import UserError

# the package that reads each kind of address; "memory" is fsspec's own, of one process, for tests
DRIVERS = {"gs": "gcsfs", "s3": "s3fs", "memory": "fsspec"}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def is_address(path: str) -> bool:
    """Whether a path is an address, and no file or folder of this machine."""
    return _SCHEME.match(path) is not None


def check(path: str) -> None:
    """Raises UserError for an address of a kind that is not known, or whose package is not installed."""
    scheme = _scheme(path)
    if scheme not in DRIVERS:
        raise UserError(
            f"data.path={path!r} is an address of {scheme}://, and only gs://, s3:// and files and folders of this "
            "machine can be read; copy it, or mount it and give the folder."
        )
    missing = [name for name in dict.fromkeys(("fsspec", DRIVERS[scheme])) if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"data.path={path!r} needs {' and '.join(missing)}, which is not installed: pip install "
            f"{' '.join(missing)}; or copy it, or mount it and give the folder."
        )


def opened(path: str) -> BinaryIO:
    """The file at an address. Raises FileNotFoundError, or UserError where it cannot be opened."""
    try:
        return cast(BinaryIO, _system(path).open(path, "rb"))
    except (UserError, FileNotFoundError):
        raise
    except Exception as error:  # each package has its own
        raise _cannot(path, error) from error


def found(root: str, skip: frozenset[str]) -> tuple[list[File], Counter[str], bool]:
    """(files at an address and below it by name, folders that were passed over by name, whether it is a folder).

    Passed over are hidden folders and those in `skip`. Raises UserError for an address where nothing is.
    """
    try:
        system = _system(root)
        inside = system._strip_protocol(root)
        infos = dict(system.find(inside, detail=True))
    except UserError:
        raise
    except Exception as error:  # as above
        raise _cannot(root, error) from error
    scheme = _scheme(root)
    if not infos:
        raise UserError(f"data.path={root!r} does not exist, or is an empty folder.")
    if set(infos) == {inside}:
        return [_file(scheme, posixpath.basename(inside), infos[inside])], Counter(), False
    files, passed_over = [], set()
    for path in sorted(infos):
        name = posixpath.relpath(path, inside)
        folders = name.split("/")[:-1]
        out = next((i for i, folder in enumerate(folders, 1) if folder.startswith(".") or folder in skip), 0)
        if out:
            passed_over.add("/".join(folders[:out]))
        else:
            files.append(_file(scheme, name, infos[path]))
    return files, Counter(posixpath.basename(folder) for folder in sorted(passed_over)), True


def _file(scheme: str, name: str, info: dict[str, Any]) -> File:
    path = f"{scheme}://{info['name'].lstrip('/')}"
    return File(name, path, int(info.get("size") or 0), path)


def _scheme(path: str) -> str:
    return cast(re.Match, _SCHEME.match(path))[1]


def _system(path: str) -> Any:
    """The file system of an address."""
    check(path)
    import fsspec

    return fsspec.filesystem(_scheme(path))


def _cannot(path: str, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), "") or type(error).__name__
    return UserError(f"data.path: {path!r} cannot be read: {reason}.")
