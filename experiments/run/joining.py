"""The start of several processes as one run: they are counted before jax waits for them.

jax.distributed ends a process that has waited too long by abort(), without a word on who is missing. So process 0
first counts the others, on the port that jax will take, and whatever is wrong is a UserError in every process that is
there, within a limit (LONGCTX_JOIN_LIMIT in the environment, seconds):

    the others   connect, and send "longctx INDEX PROCESSES"
    process 0    answers all at once: "go" when all are there, else "no: " and what is wrong

Nothing but these lines is read or sent, and what is no such line is left alone.
"""

import collections
import contextlib
import os
import re
import selectors
import socket
import sys
import time
from collections.abc import Iterator

from experiments.settings.cluster import Cluster, detect, number
from longctx.errors import UserError

LIMIT = "LONGCTX_JOIN_LIMIT"
LIMIT_S = 300  # machines of a cloud may come minutes apart
_GO, _NO = "go", "no: "
_MOST, _SAY_S, _READ_S = 4096, 30.0, 2.0
_PAUSE_S = 0.3  # a connection that jax tries before process 0 listens again costs it a second


def join() -> None:
    """Makes this process one of jax.distributed's. Call before jax is used.

    Raises:
      UserError: when the environment does not say enough, or some process is not there in time: which, and where
        process 0 was looked for.
    """
    import jax

    cluster = detect()
    limit = number(LIMIT, 1) or LIMIT_S
    if cluster.index is not None and cluster.coordinator:
        _count(cluster, limit)
    told = cluster.told and None not in (cluster.index, cluster.coordinator)
    tasks, nodes = os.environ.get("SLURM_STEP_NUM_TASKS"), os.environ.get("SLURM_STEP_NUM_NODES")
    one_per_node = tasks is not None and tasks == nodes  # jax would give each task of SLURM one GPU
    try:
        jax.distributed.initialize(
            coordinator_address=cluster.coordinator if told or os.environ.get("JAX_COORDINATOR_ADDRESS") else None,
            num_processes=cluster.processes if told else number("JAX_NUM_PROCESSES", 1),
            process_id=cluster.index if told else number("JAX_PROCESS_ID", 0),
            local_device_ids=[] if one_per_node else None,
            cluster_detection_method="deactivate" if told else None,
            initialization_timeout=limit,
        )
    except ValueError as error:
        raise UserError(
            f"there are {cluster.processes} processes, but jax cannot tell how they find each other: {error} Give "
            "each JAX_COORDINATOR_ADDRESS=HOST:PORT (of process 0), JAX_NUM_PROCESSES and "
            "JAX_PROCESS_ID."
        ) from error


def _count(cluster: Cluster, limit: float) -> None:
    """Waits until all processes are there. Raises UserError where they are not within `limit` seconds."""
    assert cluster.coordinator is not None
    deadline = time.monotonic() + limit
    if cluster.index == 0:
        print(
            f"waiting at {cluster.coordinator} for the other {cluster.processes - 1} of {cluster.processes} processes "
            f"({cluster.kind}), at most {limit:g} s",
            file=sys.stderr,
            flush=True,
        )
        problem = host(_port(cluster.coordinator), cluster.processes, deadline)
    else:
        problem = call(cluster, deadline)
    if problem:
        raise UserError(
            f"{problem} Process {cluster.index} of {cluster.processes} waited at most {limit:g} s ({LIMIT}); "
            "python -m experiments.launch --check, on each host, prints what it was told."
        )


def _port(coordinator: str) -> int:
    address = os.environ.get("JAX_COORDINATOR_BIND_ADDRESS") or coordinator
    return int(address.rsplit(":", 1)[1])


# ---- process 0 -------------------------------------------------------------------------------------------------------


def host(port: int, processes: int, deadline: float) -> str:
    """Counts the other processes until all are there, and tells them; returns what is wrong, "" where nothing is.

    deadline: by time.monotonic.
    """
    try:
        listener = _listener(port)
    except OSError as error:
        return f"process 0 cannot wait at port {port}: {error.strerror}; another run, or a second process 0, may."
    with listener:
        present, problem = _gather(listener, processes, deadline)
    missing = sorted(set(range(1, processes)) - set(present))
    if missing and not problem:
        problem = f"{_named(missing)} of {processes} did not come."
    for connection in present.values():
        with contextlib.suppress(OSError), connection:
            connection.sendall(f"{_NO + problem if problem else _GO}\n".encode())
            connection.shutdown(socket.SHUT_WR)
            connection.settimeout(_READ_S)
            connection.recv(1)  # until the other side has closed: the port is then free for jax
    return problem


def _gather(listener: socket.socket, processes: int, deadline: float) -> tuple[dict[int, socket.socket], str]:
    """({index: connection} of the processes that are there, what is wrong with one of them)."""
    present: dict[int, socket.socket] = {}
    say = time.monotonic() + _SAY_S
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        while len(present) < processes - 1 and (now := time.monotonic()) < deadline:
            if now >= say:
                say = now + _SAY_S
                missing = sorted(set(range(1, processes)) - set(present))
                print(f"still waiting for {_named(missing)} of {processes}", file=sys.stderr, flush=True)
            ready = [key for key, _ in selector.select(min(deadline, say) - now)]
            for key in sorted(ready, key=lambda key: key.fileobj is listener):
                if key.fileobj is not listener:  # it has gone; another may take its place
                    selector.unregister(key.fileobj)
                    present.pop(key.data).close()
                    continue
                connection, _ = listener.accept()
                index, problem = _who(connection, processes, present)
                if index is None:
                    connection.close()
                    continue
                if problem:
                    return present | {-len(present) - 1: connection}, problem
                present[index] = connection
                selector.register(connection, selectors.EVENT_READ, index)
    return present, ""


def _who(connection: socket.socket, processes: int, present: dict) -> tuple[int | None, str]:
    """(index of the process at the other end, what is wrong with it); None for what is no process of a run."""
    connection.settimeout(_READ_S)
    line = re.fullmatch(r"longctx (\d+) (\d+)\n", _line(connection))
    if not line:
        return None, ""
    index, told = int(line[1]), int(line[2])
    if told != processes:
        return index, f"process {index} was told of {told} processes, process 0 of {processes}."
    if index in present or not 0 < index < processes:
        return index, f"two processes say that they are number {index} of {processes}."
    return index, ""


# ---- the others ------------------------------------------------------------------------------------------------------


def call(cluster: Cluster, deadline: float) -> str:
    """Says to process 0 that this one is there, and returns its answer: what is wrong, "" where nothing is.

    deadline: by time.monotonic. Where process 0 does not answer until then, that is what is wrong.
    """
    assert cluster.coordinator is not None
    name, port = cluster.coordinator.rsplit(":", 1)
    reason = ""
    for left in _until(deadline):
        try:
            with socket.create_connection((name.strip("[]"), int(port)), timeout=min(left, 5.0)) as connection:
                connection.sendall(f"longctx {cluster.index} {cluster.processes}\n".encode())
                connection.settimeout(left + _READ_S)
                answer = _line(connection).strip()
        except OSError as error:
            reason = error.strerror or str(error)
            continue
        if answer == _GO:
            time.sleep(_PAUSE_S)
            return ""
        if answer.startswith(_NO):
            return answer.removeprefix(_NO)
        reason = "something else than the start of a run is there" if answer else "it still waits, or it has ended"
    return f"process 0 does not answer at {cluster.coordinator}: {reason}."


def _until(deadline: float) -> Iterator[float]:
    """Seconds that are left, before each of several attempts, until there are none."""
    began = said = time.monotonic()
    while (left := deadline - time.monotonic()) > 0:
        yield left
        if time.monotonic() - said > _SAY_S:
            said = time.monotonic()
            print(f"no answer of process 0 for {said - began:.0f} s", file=sys.stderr, flush=True)
        time.sleep(min(0.5, max(0.0, deadline - time.monotonic())))


# ---- both ------------------------------------------------------------------------------------------------------------


def _listener(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=_MOST)
    return socket.create_server(("", port), backlog=_MOST)


def _line(connection: socket.socket) -> str:
    """What the other end sends until a line ends, at most a few hundred bytes; what came by then where it stops."""
    got = b""
    with contextlib.suppress(OSError):
        while len(got) < 512 and not got.endswith(b"\n") and (more := connection.recv(512)):
            got += more
    return got.decode("ascii", "replace")


def _named(indices: list[int]) -> str:
    """The processes as words: "process 3", "processes 3, 5, 8 to 15"."""
    runs = collections.deque()
    for index in indices:
        if runs and runs[-1][1] == index - 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    words = [str(a) if a == b else f"{a}, {b}" if b == a + 1 else f"{a} to {b}" for a, b in runs]
    more = f" and {len(words) - 8} more groups" if len(words) > 8 else ""
    return f"process{'es' if len(indices) > 1 else ''} {', '.join(words[:8])}{more}"
