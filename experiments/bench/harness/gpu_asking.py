"""How gpu_check has its cases answered: by a process for each route, which may crash or hang, in time."""

import collections
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from experiments.bench.harness.gpu_cases import ALONE, Case
from experiments.bench.harness.sides import Worker, WorkerFailed
from longctx.errors import UserError

START = 90  # seconds for a process to start
LIMITS = {"right": 90, "cross_entropy": 60, "time": 75, "step": 180}  # for a case, by kind


class Asker:
    """Puts answers into record["answers"], by name of the case, and calls `save` after each.

    Routes compile, and are compared, side by side, for compilers use one core each; what is timed has the GPU alone.

    Args:
      until: by time.monotonic(); a case that is not answered by then is left open, for another start.
      start: limit in seconds -> a Worker.
      said: (case, answer) -> None, called after each.
      patience: what START and LIMITS are multiplied by.
    """

    def __init__(self, record: dict, until: float, start, save, said, patience: int = 1):
        self.record, self.until, self._start, self._save, self._said = record, until, start, save, said
        self._patience = patience
        self._workers: dict[str, Worker] = {}
        self._lost, self._prepared, self._lock = set(), {}, threading.Lock()

    def start(self, routes) -> None:
        """Starts their processes side by side. Raises WorkerFailed where none does, and UserError where the answers
        that are there are of another device."""
        started = list(_each(routes, self._try_start))
        if all(isinstance(one, WorkerFailed) for one in started):
            raise started[0]

    def ask(self, group: list[Case]) -> None:
        """All cases of a group, which are of one kind, but those that have been answered."""
        group = [case for case in group if case.name not in self.record["answers"]]
        alone = any(case.kind in ALONE for case in group)
        queues = collections.defaultdict(list)
        for case in group:
            queues[case.route].append(case)
        through = lambda queue, wanted: [self._ask(case, wanted) for case in queue]
        _each(queues.values(), lambda queue: through(queue, "prepare" if alone else "answer"))
        left = [case for case in group if case.name not in self.record["answers"]]
        through(sorted(left, key=lambda case: case.route in self._lost), "answer")  # a new process takes its time

    def close(self) -> None:
        """Ends all processes."""
        _each(list(self._workers.values()), lambda worker: worker.close())
        self._workers.clear()

    def _left(self):
        return self.until - time.monotonic()

    def _limit(self, seconds):
        return max(0.0, min(self._patience * seconds, self._left()))

    def _try_start(self, route):
        try:
            worker = self._start(self._limit(START))
        except WorkerFailed as error:
            return error
        with self._lock:
            self._workers[route] = worker
            before, here = self.record.setdefault("device", worker.ready["device"]), worker.ready["device"]
        if before != here:
            raise UserError(f"the answers so far are of {before}, and this is {here}; give another --out.")
        return worker

    def _ask(self, case, wanted):
        """wanted: "prepare" or "answer". Recorded is an answer, and what stands in the way of either."""
        if self._left() <= 0:
            return
        begun, found = time.monotonic(), self._reply(case, wanted)
        if "failed" in found:
            self._lost.add(case.route)
            if self._left() <= 0:
                return
        took = self._prepared.pop(case.name, 0.0) + time.monotonic() - begun
        with self._lock:
            if wanted == "prepare" and not set(found) - {"peak_mb"}:
                self._prepared[case.name] = took
                return
            self.record["answers"][case.name] = found | {"took_s": round(took, 1)}
            self._said(case, found)
            self._save()

    def _reply(self, case, wanted) -> dict:
        """What the route's process says, one that is started if need be; {"failed": why, "log"} where it is lost."""
        worker = self._workers.get(case.route) or self._try_start(case.route)
        try:
            if isinstance(worker, WorkerFailed):
                raise worker
            return worker.ask(json.dumps({"wanted": wanted, "case": vars(case)}), self._limit(LIMITS[case.kind]))
        except WorkerFailed as error:
            if lost := self._workers.pop(case.route, None):
                lost.close()
            return {"failed": str(error), "log": error.log}


def _each(items, do) -> list:
    """do(item) of all of them, side by side."""
    items = list(items)
    with ThreadPoolExecutor(max(len(items), 1)) as pool:
        return list(pool.map(do, items))
