"""A program of JavaScript that does what it is told: the other end of `lines.mjs`."""

import contextlib
import itertools
import json
import os
import queue
import subprocess
import threading
from pathlib import Path
from typing import Any

# Seconds for what the large programs do. They take one or two, alone on a machine.
PATIENCE_S = 45.0
HERE = Path(__file__).parent


class Failed(AssertionError):
    """A command has failed over there."""


class Node:
    """Runs `script` of this folder until `close`. What it tells by itself is in `told`, its complaints in `errors`."""

    def __init__(self, script: str, *arguments: str, errors: Path) -> None:
        self.told: list[dict[str, Any]] = []
        self._errors = errors
        self._numbers = itertools.count()
        self._answers: dict[int, queue.Queue[dict[str, Any]]] = {}
        with errors.open("wb") as target:
            self._process = subprocess.Popen(
                ["node", str(HERE / script), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=target,
                env={"PATH": os.environ["PATH"], "HOME": str(errors.parent)},
                start_new_session=True,
            )
        self._reader = threading.Thread(target=self._read, name=script, daemon=True)
        self._reader.start()

    def start(self, do: str, **command: Any) -> int:
        """Send a command. Returns the number to `wait` for."""
        number = next(self._numbers)
        self._answers[number] = queue.Queue()
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"id": number, "do": do, **command}).encode() + b"\n")
        self._process.stdin.flush()
        return number

    def wait(self, number: int) -> Any:
        """Return what the command has come to. Raises Failed."""
        try:
            answer = self._answers[number].get(timeout=PATIENCE_S)
        except queue.Empty:
            raise Failed(f"no answer; {self._errors.read_text()}") from None
        if "error" in answer:
            raise Failed(answer["error"])
        return answer["value"]

    def ask(self, do: str, **command: Any) -> Any:
        """Send a command and return what it comes to."""
        return self.wait(self.start(do, **command))

    def close(self) -> None:
        """Let it end by itself, or else end it."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended before
            self._process.stdin.close()
        try:
            self._process.wait(PATIENCE_S / 2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            message = json.loads(line)
            if "told" in message:
                self.told.append(message["told"])
            else:
                self._answers[message["id"]].put(message)
