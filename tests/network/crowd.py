"""Many subscribers that read nothing, and how long the daemon's loop is held meanwhile."""

import socket
import threading
import time
from types import TracebackType
from typing import Self

from opencode_events.sockets import allow_descriptors
from tests.clients import until
from tests.network.hosts import HostClient
from tests.network.stage import Stage
from tests.network.visitors import SMALL, say_goodbye, target


class Crowd:
    """`size` subscribers of `room`, for each of which more waits than its connection takes."""

    def __init__(self, stage: Stage, size: int, room: str = "/crowd") -> None:
        allow_descriptors(2 * size)
        client = stage.client()
        request = client.request(target(room))
        before = int(stage.status("broker")["subscribers"])
        self.sockets: list[socket.socket] = []
        for _ in range(size):
            sock = client.connect(receive_buffer=SMALL)
            sock.sendall(request)
            self.sockets.append(sock)
        until(lambda: stage.status("broker")["subscribers"] == before + size)
        stage.feed(room, 8)
        until(lambda: stage.status("watchdog")["not_at_rest"] >= size)

    def say_goodbye(self) -> None:
        """Have all of them send FIN."""
        for sock in self.sockets:
            say_goodbye(sock)

    def leave(self) -> None:
        """Close all of them."""
        while self.sockets:
            self.sockets.pop().close()


class Lag:
    """Asks a daemon again and again whether it is healthy; `worst_s` is the longest that an answer took."""

    def __init__(self, stage: Stage) -> None:
        self._client = HostClient(stage.daemon.url, stage.network.server)
        self._is_stopped = False
        self._thread = threading.Thread(target=self._run, name="lag")
        self.worst_s = 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._is_stopped = True
        self._thread.join()
        self._client.close()

    def _run(self) -> None:
        sock = self._client.connect()
        request = self._client.request("/-/healthy")
        while not self._is_stopped:
            began = time.monotonic()
            sock.sendall(request)
            assert sock.recv(65_536).startswith(b"HTTP/1.1 200 ")
            self.worst_s = max(self.worst_s, time.monotonic() - began)
            time.sleep(0.001)
