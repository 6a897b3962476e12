"""A model that does what it is told: that part of OpenAI's chat completions which opencode uses, on the loopback.

Each line of a prompt is a step, and each answer takes the next one. `say` ends the turn, a tool leads to another:

    say N           N deltas of text
    run COMMAND     a call of the tool `bash`
    write NAME      a call of the tool `write`, with a few lines for that file
    crawl           text that goes on, ten deltas a second, until nobody listens
    fail            an error that is not worth another try

What has no step left, or none at all, is answered with a word; a request that brings no tools is for a title.
"""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

TITLE = "A title of the stub"
CRAWL_PAUSE_S = 0.1


class Stub:
    """Listens from `__enter__` to `__exit__`."""

    def __init__(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="model", daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    """One connection. The end of the answer is the end of the connection."""

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        step = next_step(request)
        if step == "fail":
            self._answer(400, "application/json")
            self.wfile.write(b'{"error":{"message":"the stub was told to fail","type":"invalid_request_error"}}')
            return
        self._answer(200, "text/event-stream")
        try:
            for delta, reason in deltas(step):
                self._send(chunk(delta, reason))
            self.wfile.write(b"data: [DONE]\n\n")
        except OSError:
            pass  # whoever asked has gone: an abort

    def _answer(self, status: int, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.end_headers()

    def _send(self, value: object) -> None:
        self.wfile.write(b"data: %s\n\n" % json.dumps(value).encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the library's name
        pass


def next_step(request: dict[str, Any]) -> str:
    """Return the line of the last prompt that this request has come to, "" when they are through."""
    if not request.get("tools"):
        return "title"
    messages = request["messages"]
    last = max(at for at, message in enumerate(messages) if message["role"] == "user")
    done = sum(message["role"] == "tool" for message in messages[last:])
    content = messages[last]["content"]
    text = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
    steps = [line.strip() for line in text.strip().splitlines()]
    return steps[done] if done < len(steps) else ""


def deltas(step: str) -> Iterator[tuple[dict[str, Any], str | None]]:
    """Yield what the answer to `step` is made of: deltas, each with the reason to stop where it is the last one."""
    word, _, rest = step.partition(" ")
    if word in TOOLS:
        yield call(word, rest), None
        yield {}, "tool_calls"
        return
    for number in range(int(rest) if word == "say" else 0):
        yield {"content": f"word{number} "}, None
    while word == "crawl":
        yield {"content": "step "}, None
        time.sleep(CRAWL_PAUSE_S)
    yield {"content": TITLE if word == "title" else "Done."}, None
    yield {}, "stop"


TOOLS = {"run": "bash", "write": "write"}


def call(word: str, rest: str) -> dict[str, Any]:
    """Return the delta that calls a tool."""
    arguments = (
        {"command": rest, "description": "what the prompt asks for"}
        if word == "run"
        else {"filePath": rest, "content": "one\ntwo — zwei\nthree\n"}
    )
    function = {"name": TOOLS[word], "arguments": json.dumps(arguments)}
    return {"tool_calls": [{"index": 0, "id": f"call_{time.time_ns()}", "type": "function", "function": function}]}


def chunk(delta: dict[str, Any], reason: str | None) -> dict[str, Any]:
    """Return one `chat.completion.chunk`."""
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    found = {"id": "chatcmpl-stub", "object": "chat.completion.chunk", "created": 0, "model": "m1", "choices": [choice]}
    if reason is not None:
        found["usage"] = {"prompt_tokens": 10, "completion_tokens": 10, "total_tokens": 20}
    return found
