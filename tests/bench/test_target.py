import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from opencode_events.bench.errors import BenchError
from opencode_events.bench.target import Target, instance_stream, stream_after


def test_a_request_names_host_path_and_the_lines_given() -> None:
    target = Target.parse("http://127.0.0.1:4097/base/", ("Authorization: Bearer x",))

    assert target.address == ("127.0.0.1", 4097)
    assert target.request("GET", "/-/status", "Connection: close") == (
        b"GET /base/-/status HTTP/1.1\r\nHost: 127.0.0.1:4097\r\nAuthorization: Bearer x\r\nConnection: close\r\n\r\n"
    )


def test_ipv6_is_an_address_like_any_other() -> None:
    target = Target.parse("http://[::1]:4097")

    assert target.family == socket.AF_INET6
    assert target.host == "[::1]:4097"
    assert target.is_local()


@pytest.mark.parametrize("url", ["https://127.0.0.1:1", "http://", "http://127.0.0.1:port", "ftp://127.0.0.1"])
def test_what_cannot_be_measured_is_refused(url: str) -> None:
    with pytest.raises(BenchError, match=url.split(":", maxsplit=1)[0]):
        Target.parse(url)


def test_a_directory_is_encoded_in_the_query() -> None:
    assert instance_stream("/a b&c") == "/event?directory=%2Fa%20b%26c"


def test_a_cursor_is_encoded_in_the_query() -> None:
    assert stream_after("a-1&x") == "/global/event?after=a-1%26x"


def test_a_daemon_that_hangs_up_has_no_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        target = Target.parse(f"http://127.0.0.1:{server.getsockname()[1]}")
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(target.ask, "GET", "/")
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)

        assert answer.result() is None


def test_nobody_at_the_address_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    with pytest.raises(BenchError, match=f"no daemon at 127.0.0.1:{port}"):
        Target.parse(f"http://127.0.0.1:{port}").ask_pid()
