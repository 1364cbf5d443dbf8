"""Files that are no documents of their own: another file is read with them, or they describe others. Free of jax."""

import posixpath
from collections.abc import Iterable

from longctx.data.formats import mds

# beside .arrow files, as the datasets library writes them
DESCRIBING = ("dataset_info.json", "state.json")
SPLITS = "dataset_dict.json"  # beside folders with a state.json


def companions(names: Iterable[str]) -> tuple[frozenset[str], frozenset[str]]:
    """(names of files that are read together with another one, names of those that only describe others).

    names: of all files, below one folder. Read together are X.bin with X.idx, and shards of Mosaic's data sets with the
    nearest index.json around them; one further up describes them again. Of the datasets library what it writes about
    .arrow files is no document, nor are its caches of what was computed from them.
    """
    names = frozenset(names)
    together = {name for name in names if name.lower().endswith(".bin") and f"{name[:-4]}.idx" in names}
    indices, around = set(), set()
    for name in names:
        if ".mds" in posixpath.splitext(name)[1] or ".mds." in posixpath.basename(name):
            found = [index for index in _above(name) if index in names]
            together |= {name} if found else set()
            indices, around = indices | set(found[:1]), around | set(found[1:])
    return frozenset(together), frozenset((around - indices) | _of_datasets(names))


def _above(name: str) -> list[str]:
    """The index.json of each folder around a file, the nearest first."""
    folders, folder = [], posixpath.dirname(name)
    while folder:
        folders.append(folder)
        folder = posixpath.dirname(folder)
    return [posixpath.join(folder, mds.INDEX) for folder in (*folders, "")]


def _of_datasets(names: frozenset[str]) -> set[str]:
    with_arrow = {posixpath.dirname(name) for name in names if name.endswith(".arrow")}
    found = {posixpath.join(folder, name) for folder in with_arrow for name in DESCRIBING} & names
    described = {posixpath.dirname(name) for name in found}
    splits = {posixpath.join(posixpath.dirname(folder), SPLITS) for folder in described if folder} & names
    is_cache = lambda name: posixpath.basename(name).startswith("cache-") and name.endswith(".arrow")
    return found | splits | {name for name in names if is_cache(name) and posixpath.dirname(name) in described}
