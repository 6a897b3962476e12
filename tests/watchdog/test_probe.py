"""What the kernel is asked: real connections on Linux, and what a shorter reply, macOS or another system would say."""

import asyncio
import contextlib
import ctypes
import socket
import struct
from collections.abc import Callable, Iterator

import pytest

from opencode_events.watchdog.classify import Tcp
from opencode_events.watchdog.probe import AT_REST, Sample, best_probe, probe_linux, probe_macos, probe_nothing
from tests.clients import LINGER_NONE, until
from tests.servers import LOOPS

SO_ATTACH_FILTER = 26
TCP_INFO_BYTES = 192
BSD_BYTES = 112


class Pair:
    """Both ends of a connection over the loopback. `own` is the end that is asked about."""

    def __init__(
        self, make: Callable[[int], socket.socket] = lambda descriptor: socket.socket(fileno=descriptor)
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.peer = socket.create_connection(listener.getsockname())
            accepted, _ = listener.accept()
        self.own = make(accepted.detach())

    def close(self) -> None:
        self.own.close()
        self.peer.close()

    def fill(self) -> int:
        """Write until nothing more fits; return how much that was."""
        self.own.setblocking(False)
        written = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                written += self.own.send(b"x" * 65_536)
        return written

    def deafen_peer(self) -> None:
        """Have the peer's kernel drop whatever comes, as a path does that is dead. Its filter takes 0 bytes of each."""
        nothing = struct.pack("HBBI", 6, 0, 0, 0)  # BPF: return 0
        program = ctypes.create_string_buffer(nothing)
        self.peer.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HxxxxxxP", 1, ctypes.addressof(program)))


@pytest.fixture
def pair() -> Iterator[Pair]:
    with contextlib.closing(Pair()) as made:
        yield made


def ask(pair: Pair) -> Sample:
    found = probe_linux(pair.own)
    assert found is not None
    return found


def acked(pair: Pair) -> int:
    """Return the bytes that the peer has acknowledged; whether our SYN is one of them is the kernel's affair."""
    found = ask(pair).acked
    assert found is not None
    return found


# --- Linux


def test_a_fresh_connection_is_at_rest(pair: Pair) -> None:
    seen = ask(pair)

    assert (seen.state, seen.outq, seen.unacked, seen.received) == (Tcp.ESTABLISHED, 0, 0, 0)
    assert seen.acked is not None
    assert seen.last_ack_s is not None
    assert 0 <= seen.last_ack_s < 60
    assert probe_linux(pair.own, True) is AT_REST


def test_bytes_that_came_and_went_are_counted(pair: Pair) -> None:
    before = acked(pair)
    pair.peer.sendall(b"request")
    pair.own.sendall(b"x" * 5_000)

    until(lambda: ask(pair).outq == 0)
    assert (acked(pair) - before, ask(pair).received) == (5_000, 7)
    assert probe_linux(pair.own, True) is AT_REST


def test_what_is_in_flight_is_seen_and_how_long_nobody_answered(pair: Pair) -> None:
    pair.own.sendall(b"x")
    until(lambda: ask(pair).outq == 0)
    pair.deafen_peer()
    pair.own.sendall(b"x" * 100)

    before = ask(pair)
    assert (before.state, before.outq, before.unacked) == (Tcp.ESTABLISHED, 100, 1)
    assert probe_linux(pair.own, True) is not AT_REST
    silence_s = until(lambda: ask(pair).last_ack_s)
    until(lambda: (ask(pair).last_ack_s or 0) > silence_s)
    assert ask(pair)._replace(last_ack_s=None) == before._replace(last_ack_s=None)


def test_a_closed_window_leaves_nothing_in_flight_and_does_not_move(pair: Pair) -> None:
    before = acked(pair)
    written = pair.fill()

    until(lambda: ask(pair).unacked == 0)
    stuck = acked(pair)
    seen = ask(pair)
    assert seen.state is Tcp.ESTABLISHED
    assert seen.outq == written - (stuck - before) > 0
    assert probe_linux(pair.own, True) is not AT_REST
    pair.peer.recv(1_000_000)
    until(lambda: acked(pair) > stuck)


def test_the_peers_goodbye_is_a_state(pair: Pair) -> None:
    pair.peer.shutdown(socket.SHUT_WR)

    until(lambda: ask(pair).state is Tcp.CLOSE_WAIT)
    assert probe_linux(pair.own, True) is not AT_REST


def test_our_goodbye_is_another(pair: Pair) -> None:
    pair.own.shutdown(socket.SHUT_WR)

    until(lambda: ask(pair).state is Tcp.FIN_WAIT2)
    assert ask(pair).outq == 0


def test_a_connection_that_was_reset_is_closed(pair: Pair) -> None:
    pair.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NONE)
    pair.peer.close()

    until(lambda: ask(pair).state is Tcp.CLOSE)


def test_there_is_nothing_to_ask_of_a_closed_descriptor(pair: Pair) -> None:
    pair.own.close()

    assert [probe(pair.own, briefly) for probe in (probe_linux, probe_nothing) for briefly in (False, True)] == [
        None
    ] * 4


@pytest.mark.parametrize("probe", [probe_linux, probe_nothing])
@pytest.mark.parametrize("loop_name", LOOPS)
def test_a_transports_socket_can_be_asked_until_it_is_closed(
    loop_name: str, probe: Callable[[socket.socket, bool], Sample | None]
) -> None:
    """asyncio's says OSError then, uvloop's ValueError."""

    async def go() -> None:
        loop = asyncio.get_running_loop()
        with contextlib.closing(Pair()) as pair:
            pair.own.setblocking(False)
            transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, pair.own)
            sock = transport.get_extra_info("socket")
            assert probe(sock, False) is not None
            transport.abort()
            while probe(sock, False) is not None:  # noqa: ASYNC110  # the loop closes it in one of its next turns
                await asyncio.sleep(0)
            assert probe(sock, True) is None

    with asyncio.Runner(loop_factory=LOOPS[loop_name]) as runner:
        runner.run(go())


# --- an older kernel


class Old(socket.socket):
    """A socket whose kernel knows only the first `kept` bytes of the structure."""

    kept = 0

    def getsockopt(self, level: int, option: int, size: int = 0) -> bytes:  # type: ignore[override]  # of bytes only
        return super().getsockopt(level, option, size)[: self.kept]


@pytest.fixture
def old() -> Iterator[Pair]:
    with contextlib.closing(Pair(lambda descriptor: Old(fileno=descriptor))) as made:
        yield made


def kept(pair: Pair, size: int) -> Sample | None:
    assert isinstance(pair.own, Old)
    pair.own.kept = size
    return probe_linux(pair.own)


def test_a_shorter_reply_tells_less(old: Pair) -> None:
    old.peer.sendall(b"hello")
    old.own.sendall(b"x" * 10)
    until(lambda: (seen := kept(old, TCP_INFO_BYTES)) is not None and not seen.outq and seen.received == 5)

    whole, before_4_6, before_4_1 = (kept(old, size) for size in (148, 144, 104))
    assert whole is not None
    assert before_4_6 is not None
    assert before_4_6._replace(last_ack_s=None) == whole._replace(last_ack_s=None)
    assert before_4_1 is not None
    assert (before_4_1.state, before_4_1.unacked, before_4_1.acked, before_4_1.received) == (
        Tcp.ESTABLISHED, 0, None, None,
    )  # fmt: skip
    assert before_4_1.last_ack_s is not None
    assert kept(old, 28) == Sample(Tcp.ESTABLISHED)
    assert kept(old, 24) == Sample(Tcp.ESTABLISHED)
    assert kept(old, 0) == Sample()


def test_a_shorter_reply_never_says_that_a_connection_is_at_rest(old: Pair) -> None:
    assert isinstance(old.own, Old)
    for size in range(148):
        old.own.kept = size
        assert probe_linux(old.own, True) is not AT_REST


def test_what_waits_is_known_to_an_older_kernel_too(old: Pair) -> None:
    written = old.fill()

    seen = until(lambda: kept(old, 104))
    assert 0 < seen.outq < written


# --- macOS, from its header


class Mac:
    """A socket that answers as macOS would. `reply` None: the descriptor is closed."""

    def __init__(self, reply: bytes | None) -> None:
        self._reply = reply
        self.asked: tuple[int, int, int] | None = None

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        self.asked = level, option, size
        if self._reply is None:
            raise OSError(9, "Bad file descriptor")
        return self._reply


def mac(state: int, *, unsent: int = 0, received: int = 0, size: int = BSD_BYTES) -> socket.socket:
    """Return a socket with a `struct tcp_connection_info`; each field that is not asked for is another number."""
    reply = bytearray(range(100, 100 + BSD_BYTES))
    for kind, offset, value in (("=B", 0, state), ("=I", 32, unsent), ("=Q", 88, received)):
        struct.pack_into(kind, reply, offset, value)
    return Mac(bytes(reply[:size]))  # type: ignore[return-value]  # all of a socket that is used


@pytest.mark.parametrize(
    ("number", "state"),
    [(0, Tcp.CLOSE), (1, Tcp.LISTEN), (2, Tcp.SYN_SENT), (3, Tcp.SYN_RECV), (4, Tcp.ESTABLISHED), (5, Tcp.CLOSE_WAIT),
     (6, Tcp.FIN_WAIT1), (7, Tcp.CLOSING), (8, Tcp.LAST_ACK), (9, Tcp.FIN_WAIT2), (10, Tcp.TIME_WAIT), (11, None)],
)  # fmt: skip
def test_macos_numbers_its_states_in_its_own_way(number: int, state: Tcp | None) -> None:
    seen = probe_macos(mac(number, unsent=7, received=9))

    assert seen == Sample(state, outq=7, received=9)


def test_macos_is_asked_for_the_whole_structure() -> None:
    sock = mac(4)
    probe_macos(sock)

    assert isinstance(sock, Mac)
    assert sock.asked == (socket.IPPROTO_TCP, 0x106, 112)


def test_at_rest_on_macos() -> None:
    assert probe_macos(mac(4), True) is AT_REST
    assert probe_macos(mac(4, unsent=1), True) == Sample(Tcp.ESTABLISHED, 1, received=0)
    assert probe_macos(mac(5), True) == Sample(Tcp.CLOSE_WAIT, received=0)
    assert probe_macos(mac(4)) == Sample(Tcp.ESTABLISHED, received=0)


def test_an_older_macos_has_the_structure_without_its_last_field() -> None:
    assert probe_macos(mac(5, unsent=7, received=9, size=104)) == Sample(Tcp.CLOSE_WAIT, 7, received=9)


@pytest.mark.parametrize("size", [0, 1, 95])
def test_a_reply_of_macos_that_is_too_short_tells_nothing(size: int) -> None:
    assert probe_macos(mac(4, size=size), True) == Sample()


def test_a_closed_descriptor_on_macos() -> None:
    assert probe_macos(Mac(None)) is None  # type: ignore[arg-type]  # all of a socket that is used


# --- elsewhere


def test_elsewhere_only_that_it_is_open_is_known(pair: Pair) -> None:
    assert [probe_nothing(pair.own), probe_nothing(pair.own, True)] == [Sample(), Sample()]


@pytest.mark.parametrize(
    ("platform", "probe"),
    [("linux", probe_linux), ("darwin", probe_macos), ("freebsd14", probe_nothing), ("win32", probe_nothing)],
)
def test_each_platform_has_its_probe(platform: str, probe: Callable[..., object]) -> None:
    assert best_probe(platform) is probe
