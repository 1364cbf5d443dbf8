"""Processes are counted before jax waits for them: who is missing is said in time, by each that is there."""

import concurrent.futures
import socket
import time

import pytest

from experiments.run import joining
from experiments.settings.cluster import Cluster


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def gathered(port, processes, indices, host=True, limit=10.0, told=None) -> list[str]:
    """What process 0, where there is a host, and then each of the indices was told."""
    deadline = time.monotonic() + limit
    with concurrent.futures.ThreadPoolExecutor() as pool:
        all = [pool.submit(joining.host, port, processes, deadline)] if host else []
        for index in indices:
            other = Cluster("variables", told or processes, index, f"localhost:{port}")
            all.append(pool.submit(joining.call, other, deadline))
        return [one.result(timeout=30) for one in all]


def send(port, text, deadline) -> None:
    """Sends the text to process 0, as soon as it listens, and hangs up."""
    for _ in joining._until(deadline):
        try:
            with socket.create_connection(("localhost", port)) as connection:
                connection.sendall(text)
                return
        except OSError:
            continue


def test_all_are_there(port):
    assert gathered(port, 4, [3, 1, 2]) == [""] * 4
    socket.create_server(("", port)).close()  # jax can have the port


def test_who_is_missing_is_said_by_all(port):
    answers = gathered(port, 9, [1, 5], limit=1.5)
    assert answers == ["processes 2 to 4, 6 to 8 of 9 did not come."] * 3


def test_a_missing_process_0_is_named_with_its_address(port):
    [answer] = gathered(port, 2, [1], host=False, limit=1.0)
    assert answer == f"process 0 does not answer at localhost:{port}: Connection refused."
    nowhere = Cluster("variables", 2, 1, "no.such.host.invalid:1")
    assert "process 0 does not answer at no.such.host.invalid:1: " in joining.call(nowhere, time.monotonic() + 0.5)


def test_two_of_one_number(port):
    assert gathered(port, 4, [1, 1]) == ["two processes say that they are number 1 of 4."] * 3


def test_numbers_of_processes_that_differ(port):
    assert gathered(port, 3, [1], told=2) == ["process 1 was told of 2 processes, process 0 of 3."] * 2


def test_a_port_in_use(port):
    with socket.create_server(("", port)):
        assert f"cannot wait at port {port}: Address already in use" in joining.host(port, 2, time.monotonic() + 1)


def test_what_is_no_process_of_a_run_is_left_alone(port, monkeypatch):
    monkeypatch.setattr(joining, "_READ_S", 0.2)
    deadline = time.monotonic() + 20
    with concurrent.futures.ThreadPoolExecutor() as pool:
        hosting = pool.submit(joining.host, port, 2, deadline)
        for junk in (b"GET / HTTP/1.1\r\n\r\n", b"", b"\xff" * 600):
            send(port, junk, deadline)
        assert joining.call(Cluster("variables", 2, 1, f"localhost:{port}"), deadline) == hosting.result(30) == ""


def test_one_that_has_gone_may_come_again(port):
    deadline = time.monotonic() + 20
    with concurrent.futures.ThreadPoolExecutor() as pool:
        hosting = pool.submit(joining.host, port, 3, deadline)
        send(port, b"longctx 1 3\n", deadline)
        others = [pool.submit(joining.call, Cluster("variables", 3, i, f"localhost:{port}"), deadline) for i in (1, 2)]
        assert [one.result(30) for one in (hosting, *others)] == [""] * 3


@pytest.mark.parametrize(
    "indices, words", [([3], "process 3"), ([3, 4], "processes 3, 4"), ([1, 3, 4, 5], "processes 1, 3 to 5")]
)
def test_how_processes_are_named(indices, words):
    assert joining._named(indices) == words
    assert joining._named(list(range(0, 40, 2))).endswith("14 and 12 more groups")
