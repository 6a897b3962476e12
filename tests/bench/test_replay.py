import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from opencode_events.bench.errors import BenchError
from opencode_events.bench.history import fill
from opencode_events.bench.measure import Lab
from opencode_events.bench.replay import time_first, together
from opencode_events.bench.sequence import Position
from opencode_events.bench.target import Target, stream_after
from opencode_events.bench.trail import Trail
from tests.bench.conftest import Start, lab_before

RUN = "ab12cd34"
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_every_round_is_read_by_all(lab: Lab) -> None:
    row = together(lab, "replay", RUN, fill(lab, RUN, 60))

    rounds = row.values["rounds"]
    assert rounds is not None
    assert rounds > 0
    assert row.values["deliveries"] == rounds * 10 * 60
    assert not row.faults


def test_a_replay_that_does_not_come_ends_the_rounds(start: Start) -> None:
    lab = lab_before(start("expire"))

    row = together(lab, "replay", RUN, fill(lab, RUN, 60))

    assert row.values["rounds"] == 1
    assert row.faults.lost == 10 * 60
    assert set(row.reasons) == {"the daemon could not resume after the cursor (server.stream.expired)"}


def test_the_first_event_is_timed_and_those_behind_it_are_checked(start: Start) -> None:
    lab = lab_before(start("duplicate"))
    cursor = fill(lab, RUN, 60)

    first_ns, position = time_first(lab.target, stream_after(cursor), Trail(RUN), 10)

    assert first_ns > 0
    assert position == Position(due=60, duplicated=1)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        pytest.param(b"", "ended a stream that was being resumed", id="hangs up"),
        pytest.param(HEAD + b"0\r\n\r\n", "ended a stream that was being resumed", id="ends"),
        pytest.param(b"SSH-2.0\r\n\r\n", "could not be resumed: not HTTP", id="no HTTP"),
        pytest.param(b"HTTP/1.1 400 No\r\n\r\nno such cursor", "400 No: no such cursor", id="refuses"),
    ],
)
def test_a_stream_that_cannot_be_resumed_is_told(answer: bytes, words: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        target = Target.parse(f"http://127.0.0.1:{server.getsockname()[1]}")
        done = pool.submit(time_first, target, "/global/event?after=1-1", Trail(RUN), 10)
        connection, _ = server.accept()
        with connection:
            connection.recv(65_536)
            connection.sendall(answer)

        with pytest.raises(BenchError, match=words):
            done.result()


def test_events_that_do_not_come_are_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = Target.connect
    monkeypatch.setattr(Target, "connect", lambda self: connect(self, 0.05))
    with socket.create_server(("127.0.0.1", 0)) as server:
        target = Target.parse(f"http://127.0.0.1:{server.getsockname()[1]}")

        with pytest.raises(BenchError, match="10 events behind the cursor did not come"):
            time_first(target, "/global/event?after=1-1", Trail(RUN), 10)
