import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from opencode_events.bench.closedloop import ClosedLoop
from opencode_events.bench.crowd import Crowd
from opencode_events.bench.errors import BenchError
from opencode_events.bench.history import mark
from opencode_events.bench.measure import Lab
from opencode_events.bench.payload import EventMaker
from opencode_events.bench.sequence import judge
from opencode_events.bench.target import Target, stream_after
from tests.bench.conftest import Start

RUN = "ab12cd34"


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def publishers(server: socket.socket, count: int = 1) -> ClosedLoop:
    return ClosedLoop(Target.parse(f"http://127.0.0.1:{server.getsockname()[1]}"), EventMaker(RUN), count)


@pytest.mark.parametrize("count", [1, 5])
def test_each_event_is_acknowledged_once_and_timed(lab: Lab, count: int) -> None:
    cursor = mark(lab.target)
    with ClosedLoop(lab.target, EventMaker(RUN), count) as loop:
        first = loop.run(0.05)
        second = loop.run(0.05)

    assert first.events + second.events == loop.maker.made
    assert len(second.latencies) == second.events >= count
    assert 0 < second.latencies[0] <= second.latencies[-1]
    with Crowd(lab.target, RUN) as crowd:
        crowd.open(stream_after(cursor), 1)
        assert crowd.wait_received(loop.maker.made)
        assert judge(crowd.findings().positions, loop.maker.made).lost == 0


def test_one_request_is_in_flight_on_each_connection(server: socket.socket) -> None:
    """The second request of a connection comes when the first is answered, though it comes in pieces."""
    with publishers(server, 2) as loop, ThreadPoolExecutor(1) as pool:
        done = pool.submit(loop.run, 0.0)
        connections = [server.accept()[0] for _ in range(2)]
        requests = [connection.recv(65_536) for connection in connections]
        for connection in connections:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Le")
        for connection in connections:
            connection.sendall(b'ngth: 14\r\n\r\n{"accepted":1}')

        assert done.result().events == 2
        assert [request.count(b"POST /global/event") for request in requests] == [1, 1]
        for connection in connections:
            connection.close()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "closed a publisher's connection"),
        (b"SSH-2.0\r\n\r\n", "no answer to what was published: not HTTP"),
        (b'HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n{"accepted":0}', "the daemon took 0"),
    ],
    ids=["hangs up", "no HTTP", "takes nothing"],
)
def test_what_is_no_acknowledgement_ends_the_run(server: socket.socket, answer: bytes, words: str) -> None:
    with publishers(server) as loop, ThreadPoolExecutor(1) as pool:
        done = pool.submit(loop.run, 0.0)
        connection, _ = server.accept()
        with connection:
            connection.recv(65_536)
            connection.sendall(answer)

        with pytest.raises(BenchError, match=words):
            done.result()


def test_a_daemon_that_is_gone_has_stopped_reading(server: socket.socket) -> None:
    with publishers(server) as loop:
        connection, _ = server.accept()
        connection.close()
        next(iter(loop._lines.values())).sock.shutdown(socket.SHUT_WR)

        with pytest.raises(BenchError, match="stopped reading"):
            loop.run(0.0)


def test_a_daemon_that_says_nothing_is_not_waited_for_for_ever(
    server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opencode_events.bench.closedloop.ANSWER_S", 0.05)

    with publishers(server) as loop, pytest.raises(BenchError, match=r"within 0.05 s"):
        loop.run(0.0)


def test_a_refusal_is_told_in_the_daemons_own_words(start: Start) -> None:
    with (
        ClosedLoop(Target.parse(start("reject")), EventMaker(RUN), 3) as loop,
        pytest.raises(BenchError, match=r"answered 400: .*not today"),
    ):
        loop.run(0.05)


def test_publishers_that_cannot_connect_leave_nothing_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    with pytest.raises(BenchError, match="no daemon at"):
        ClosedLoop(Target.parse(f"http://127.0.0.1:{port}"), EventMaker(RUN), 2)
