"""Processes, one per route, that answer gpu_check's cases within a time limit and may crash or hang."""

import collections
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from experiments.bench.harness.gpu_cases import ALONE, Case
from experiments.bench.harness.sides import Worker, WorkerFailed
from longctx.errors import UserError

START = 90  # seconds for a process to start
LIMITS = {
    "right": 90,
    "cross_entropy": 60,
    "time": 75,
    "step": 180,
    "decode": 60,
    "decode_time": 75,
}  # for a case, by kind


class Asker:
    """Puts answers into record["answers"], by the name of the case, and calls `save` after each.

    Routes compile and are checked side by side, since compilers use one core each; timed cases have the GPU alone.

    Args:
      until: deadline by time.monotonic(); a case that is not answered by then is left for another start.
      start: limit in seconds -> a Worker.
      report: (case, answer) -> None, called after each answer.
      patience: factor on START and LIMITS.
    """

    def __init__(self, record: dict, until: float, start, save, report, patience: int = 1):
        self.record, self.until, self._start, self._save, self._report = record, until, start, save, report
        self._patience = patience
        self._workers: dict[str, Worker] = {}
        self._lost, self._prepared, self._lock = set(), {}, threading.Lock()

    def start(self, routes) -> None:
        """Starts the processes of the routes side by side.

        Raises WorkerFailed where none starts, and UserError where the answers in the record are another device's.
        """
        workers = list(_each(routes, self._try_start))
        if all(isinstance(worker, WorkerFailed) for worker in workers):
            raise workers[0]

    def ask(self, group: list[Case]) -> None:
        """Answers the cases of a group, which have one kind, that have no answer yet."""
        group = [case for case in group if case.name not in self.record["answers"]]
        alone = any(case.kind in ALONE for case in group)
        queues = collections.defaultdict(list)
        for case in group:
            queues[case.route].append(case)
        ask_all = lambda queue, method: [self._ask(case, method) for case in queue]
        _each(queues.values(), lambda queue: ask_all(queue, "prepare" if alone else "answer"))
        left = [case for case in group if case.name not in self.record["answers"]]
        ask_all(sorted(left, key=lambda case: case.route in self._lost), "answer")  # a new process starts slowly

    def close(self) -> None:
        """Ends the processes of all routes."""
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
            device = worker.ready["device"]
            recorded = self.record.setdefault("device", device)
        if recorded != device:
            raise UserError(f"the answers so far are of {recorded}, and this is {device}; give another --out.")
        return worker

    def _ask(self, case, method):
        """Requests "prepare" or "answer" of Answers, and records an answer or the reason why there is none."""
        if self._left() <= 0:
            return
        begun, reply = time.monotonic(), self._reply(case, method)
        if "failed" in reply:
            self._lost.add(case.route)
            if self._left() <= 0:
                return
        took = self._prepared.pop(case.name, 0.0) + time.monotonic() - begun
        with self._lock:
            if method == "prepare" and not set(reply) - {"peak_mb"}:
                self._prepared[case.name] = took
                return
            self.record["answers"][case.name] = reply | {"took_s": round(took, 1)}
            self._report(case, reply)
            self._save()

    def _reply(self, case, method) -> dict:
        """The reply of the route's process, started if need be; {"failed": reason, "log"} where the process is lost."""
        worker = self._workers.get(case.route) or self._try_start(case.route)
        try:
            if isinstance(worker, WorkerFailed):
                raise worker
            return worker.ask(json.dumps({"method": method, "case": vars(case)}), self._limit(LIMITS[case.kind]))
        except WorkerFailed as error:
            if lost := self._workers.pop(case.route, None):
                lost.close()
            return {"failed": str(error), "log": error.log}


def _each(items, do) -> list:
    """[do(item) for item in items], all at the same time."""
    items = list(items)
    with ThreadPoolExecutor(max(len(items), 1)) as pool:
        return list(pool.map(do, items))
