"""The sets that can be read from a folder, by name; published.py says what one is."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from longctx.errors import UserError
from longctx.evals.sets.ada_leval import ADA_LEVAL
from longctx.evals.sets.babilong import BABILONG
from longctx.evals.sets.folder import Folder
from longctx.evals.sets.graphwalks import GRAPHWALKS
from longctx.evals.sets.helmet import HELMET
from longctx.evals.sets.infinitebench import INFINITEBENCH
from longctx.evals.sets.lciteeval import LCITEEVAL
from longctx.evals.sets.leval import LEVAL
from longctx.evals.sets.longbench import LONGBENCH
from longctx.evals.sets.longbench_v2 import LONGBENCH_V2
from longctx.evals.sets.longproc import LONGPROC
from longctx.evals.sets.loogle import LOOGLE
from longctx.evals.sets.mrcr import MRCR
from longctx.evals.sets.nolima import NOLIMA
from longctx.evals.sets.oolong import OOLONG
from longctx.evals.sets.published import Grown, Set, Texts
from longctx.evals.sets.ruler import RULER

SETS: Mapping[str, Set] = {
    "longbench": LONGBENCH,
    "longbench_v2": LONGBENCH_V2,
    "leval": LEVAL,
    "loogle": LOOGLE,
    "infinitebench": INFINITEBENCH,
    "helmet": HELMET,
    "babilong": BABILONG,
    "ruler": RULER,
    "longproc": LONGPROC,
    "mrcr": MRCR,
    "graphwalks": GRAPHWALKS,
    "lciteeval": LCITEEVAL,
    "ada_leval": ADA_LEVAL,
    "nolima": NOLIMA,
    "oolong": OOLONG,
}


class Found(NamedTuple):
    """A set that is in a folder: its name in SETS, and its tasks there."""

    name: str
    tasks: "Sequence[Texts | Grown]"


def recognised(path: str) -> Found:
    """The set in a folder, by its files and their keys. Raises UserError where there is none, or more than one."""
    folder = Folder(path)
    found = [Found(name, tasks) for name, each in SETS.items() if (tasks := each.tasks(folder))]
    if len(found) == 1:
        return found[0]
    if found:
        titles = " and ".join(SETS[one.name].title for one in found)
        raise UserError(f"eval.data={path!r} holds files of {titles}; name the folder of one of them.")
    sought = ", ".join(each.looks_for for each in SETS.values())
    raise UserError(
        f"eval.data={path!r} holds no set that is known, among {len(folder.files)} files. Sought: {sought}."
    )
