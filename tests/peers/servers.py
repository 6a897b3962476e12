"""The servers that `compare` measures: what each needs, how it is started, and how one subscribes and publishes.

All listen on the loopback and keep what they write in a folder that they are given. Each is one process, so that its
CPU time is the server's.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from opencode_events import statedir
from opencode_events.declared import ENV_PREFIX

EVENT_BYTES = 200
START_S = 20.0
STOP_S = 10.0
NCHAN_MODULE = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")

# No access log, as ours has none. The temporary paths of the build may only be root's.
NGINX_CONF = """\
load_module {module};
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections {connections}; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_requests 100000000;
    nchan_shared_memory_size 256M;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location /sub {{
            nchan_subscriber eventsource;
            nchan_channel_id peers;
            nchan_subscriber_first_message newest;
        }}
        location /pub {{
            nchan_publisher;
            nchan_channel_id peers;
            nchan_message_buffer_length 100;
        }}
    }}
}}
"""

# The first connections are subscribers and get a byte of welcome; the one after them publishes, and gets one for each
# event when that has been sent to all.
C_LOOP = r"""
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static int check(ssize_t result, const char *what) {
    if (result < 0) { perror(what); exit(1); }
    return (int)result;
}

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    int port = atoi(argv[1]), subscribers = atoi(argv[2]), size = atoi(argv[3]), held = 0, one = 1;
    int *sockets = calloc(subscribers + 1, sizeof *sockets);
    char *events = malloc(8 * size);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);

    int listener = check(socket(AF_INET, SOCK_STREAM, 0), "socket");
    check(bind(listener, (struct sockaddr *)&address, sizeof address), "bind");
    check(listen(listener, 4096), "listen");
    for (int i = 0; i <= subscribers; i++) {
        sockets[i] = check(accept(listener, NULL, NULL), "accept");
        check(setsockopt(sockets[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one), "setsockopt");
        if (i < subscribers) check(send(sockets[i], "+", 1, MSG_NOSIGNAL), "send");
    }
    int publisher = sockets[subscribers];
    for (;;) {
        int got = check(recv(publisher, events + held, 8 * size - held, 0), "recv");
        if (got == 0) return 0;
        held += got;
        int done = 0;
        for (; held - done >= size; done += size) {
            for (int i = 0; i < subscribers; i++)
                check(send(sockets[i], events + done, size, MSG_NOSIGNAL), "send");
            check(send(publisher, "+", 1, MSG_NOSIGNAL), "send");
        }
        held -= done;
        memmove(events, events + done, held);
    }
}
"""


class PeerError(Exception):
    """A server could not be started, or ended a connection; the text says which."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One server. `start` takes a folder and the number of subscribers; it returns a command's process and its port."""

    is_installed: Callable[[], bool]
    start: Callable[[Path, int], tuple[subprocess.Popen[bytes], int]]
    subscribe: bytes
    publish: Callable[[bytes], bytes]
    accepted: bytes  # what the publisher gets once for each event


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server; what does not end when asked is killed."""
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def last_words(folder: Path) -> str:
    """Return the last line of what a server wrote, or nothing."""
    output = folder / "output"
    lines = output.read_text("utf-8", "replace").splitlines() if output.exists() else []
    return lines[-1] if lines else ""


def _find(command: str) -> str | None:
    """Return the path of a command. Debian has nginx in /usr/sbin, which is not in everybody's search path."""
    return shutil.which(command, path=f"{os.environ.get('PATH', os.defpath)}{os.pathsep}/usr/sbin")


def _spawn(folder: Path, *command: str) -> subprocess.Popen[bytes]:
    """Start a server on the core that inherits; its output goes to `output` in `folder`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
    with (folder / "output").open("wb") as output:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _start_ours(folder: Path, _: int) -> tuple[subprocess.Popen[bytes], int]:
    state = folder / "state"
    process = _spawn(folder, sys.executable, "-m", "opencode_events", "run", "--port", "0", "--state-dir", str(state))
    try:
        deadline = time.monotonic() + START_S
        while process.poll() is None and time.monotonic() < deadline:
            if info := statedir.read(state):
                port = urlsplit(info.url).port
                assert port is not None
                return process, port
            time.sleep(0.02)
        raise PeerError("did not start")
    except BaseException:
        stop(process)
        raise


def _start_nchan(folder: Path, subscribers: int) -> tuple[subprocess.Popen[bytes], int]:
    port, conf = _free_port(), folder / "nginx.conf"
    conf.write_text(NGINX_CONF.format(module=NCHAN_MODULE, folder=folder, port=port, connections=subscribers + 100))
    return _spawn(folder, _find("nginx") or "nginx", "-p", str(folder), "-c", str(conf)), port


def _start_redis(folder: Path, subscribers: int) -> tuple[subprocess.Popen[bytes], int]:
    port = _free_port()
    options = {"port": port, "bind": "127.0.0.1", "dir": folder, "maxclients": subscribers + 100, "tcp-backlog": 4096}
    flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    return _spawn(folder, "redis-server", *flags, "--save", "", "--appendonly", "no"), port


def _start_c_loop(folder: Path, subscribers: int) -> tuple[subprocess.Popen[bytes], int]:
    port, source, program = _free_port(), folder / "loop.c", folder / "loop"
    source.write_text(C_LOOP)
    subprocess.run(["gcc", "-O2", "-Wall", "-o", str(program), str(source)], check=True)
    return _spawn(folder, str(program), str(port), str(subscribers), str(EVENT_BYTES)), port


def _get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n".encode()


def _post(path: str) -> Callable[[bytes], bytes]:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ".encode()
    return lambda event: b"%s%d\r\n\r\n%s" % (head, len(event), event)


PEERS = {
    "ours": Peer(
        is_installed=lambda: True,
        start=_start_ours,
        subscribe=_get("/global/event"),
        publish=_post("/global/event"),
        accepted=b"HTTP/1.1 200",
    ),
    "nchan": Peer(
        is_installed=lambda: _find("nginx") is not None and NCHAN_MODULE.exists(),
        start=_start_nchan,
        subscribe=_get("/sub"),
        publish=_post("/pub"),
        accepted=b"HTTP/1.1 20",  # 201 with subscribers, 202 without
    ),
    "redis": Peer(
        is_installed=lambda: _find("redis-server") is not None,
        start=_start_redis,
        subscribe=b"SUBSCRIBE peers\r\n",
        publish=lambda event: b"*3\r\n$7\r\nPUBLISH\r\n$5\r\npeers\r\n$%d\r\n%s\r\n" % (len(event), event),
        accepted=b":",
    ),
    "c-loop": Peer(
        is_installed=lambda: _find("gcc") is not None,
        start=_start_c_loop,
        subscribe=b"",
        publish=lambda event: event,
        accepted=b"+",
    ),
}
