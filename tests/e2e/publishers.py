"""Publishers that go on through whatever happens to the daemon, and note in the `ledger` what was acknowledged to them.

What was not answered may have its place or not. Some try again with the same ids until they are answered; others leave
it, and it may be seen, once.
"""

import http.client
import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any

from tests.clients import DEADLINE_S, JSON, NDJSON, Answer, Client, dumps
from tests.e2e.ledger import Key, Ledger

DIRECTORIES = ("/d/1", "/d/2", "/d/3")
TYPES = ("message.updated", "message.part.delta", "session.idle", "todo.updated")
# Bytes that an event is padded with: mostly few, at times beyond a page of the log or a segment.
PADS = (0, 10, 100, 100, 1_000, 1_000, 4_000, 90_000)
PAD_WEIGHTS = (30, 30, 10, 10, 10, 5, 4, 1)
RETRY_S = 0.02


class Publisher:
    """One thread that publishes, from `start` to `stop`, with a pause of `pause_s` between requests, on average."""

    content_type = JSON

    def __init__(self, name: str, url: str, ledger: Ledger, chance: random.Random, *, pause_s: float = 0.004) -> None:
        self.name = name
        self.answered = 0
        self._client = Client(url)
        self._ledger = ledger
        self._chance = chance
        self._pause_s = pause_s
        self._numbers = count(1)
        self._over = threading.Event()
        self._is_abandoned = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Let it end what it has begun. Raises what went wrong."""
        self._over.set()
        self._thread.join(2 * DEADLINE_S)
        assert not self._thread.is_alive(), f"{self.name} does not come to an end"
        if self._error is not None:
            raise self._error

    def abandon(self) -> None:
        """End it, whatever it is about to do: after a test that has failed. Twice is fine."""
        self._is_abandoned = True
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._over.wait(self._chance.uniform(0, 2 * self._pause_s)):
                self._publish(self.make())
        except BaseException as error:  # noqa: BLE001  # the test's thread raises it
            self._error = error

    # --- what a kind of publisher is

    def make(self) -> list[dict[str, Any]]:
        """Return the envelopes of one request."""
        raise NotImplementedError

    def send(self, envelopes: Sequence[dict[str, Any]]) -> Answer:
        """Post them."""
        raise NotImplementedError

    def tries_again(self, envelopes: Sequence[dict[str, Any]]) -> bool:
        """Whether it posts again what was not answered."""
        return all("id" in one["payload"] for one in envelopes) and self._chance.random() < 0.7

    # --- how it publishes

    def _publish(self, envelopes: Sequence[dict[str, Any]]) -> None:
        deadline = time.monotonic() + 2 * DEADLINE_S
        while True:
            try:
                answer = self.send(envelopes)
            except (OSError, http.client.HTTPException):
                answer = None
            if answer is not None and answer.status == 200:
                self._note(envelopes, answer.json)
                return
            if answer is not None:
                assert answer.status == 503, (self.name, answer)
                assert answer.head["Retry-After"] == "1"
                self._ledger.refused()
            if self._is_abandoned or not self.tries_again(envelopes):
                return
            assert time.monotonic() < deadline, f"{self.name} is not answered"
            time.sleep(RETRY_S)

    def _note(self, envelopes: Sequence[dict[str, Any]], receipt: dict[str, Any]) -> None:
        """Note an acknowledgement, and check that it is one."""
        self.answered += 1
        assert receipt["accepted"] + receipt["duplicates"] == len(envelopes), (self.name, receipt)
        ids = receipt.get("ids") or [one["payload"]["id"] for one in envelopes]
        given = [one["payload"].get("id", found) for one, found in zip(envelopes, ids, strict=True)]
        assert ids == given
        keys: list[Key] = [(found, one["payload"]["type"] == "sync") for found, one in zip(ids, envelopes, strict=True)]
        if receipt["duplicates"] or self.content_type == NDJSON:
            self._ledger.add(keys)
        else:
            self._ledger.add(keys, cursors(receipt["first"], receipt["last"]))

    def event(self, directory: str | None = None, kind: str | None = None) -> dict[str, Any]:
        """Return a plain event with an id of this publisher's."""
        (pad,) = self._chance.choices(PADS, PAD_WEIGHTS)
        payload = {
            "id": f"evt_{self.name}_{next(self._numbers)}",
            "type": kind or self._chance.choice(TYPES),
            "properties": {"sessionID": f"ses_{self.name}", "text": "é\u2028" + "x" * pad},
        }
        return {"directory": directory or self._chance.choice(DIRECTORIES), "payload": payload}


class Objects(Publisher):
    """One event a request, at times the end of an instance; every third has no id and cannot be tried again."""

    def make(self) -> list[dict[str, Any]]:
        event = self.event(kind="server.instance.disposed" if self._chance.random() < 0.01 else None)
        if self._chance.random() < 1 / 3:
            del event["payload"]["id"]
        return [event]

    def send(self, envelopes: Sequence[dict[str, Any]]) -> Answer:
        (envelope,) = envelopes
        if self._chance.random() < 0.5:
            return self._client.post("/global/event", dumps(envelope))
        target = f"/event?directory={envelope['directory']}"
        return self._client.post(target, dumps(envelope["payload"]))


class Arrays(Publisher):
    """Some events a request, all or nothing; at times more than is committed on the loop."""

    def make(self) -> list[dict[str, Any]]:
        number = self._chance.choice((1, 5, 20, 20, 20, 450)) if self._chance.random() < 0.2 else 10
        return [self.event() for _ in range(number)]

    def send(self, envelopes: Sequence[dict[str, Any]]) -> Answer:
        return self._client.post("/global/event", dumps(envelopes))


class Lines(Publisher):
    """NDJSON that comes in pieces which end anywhere."""

    content_type = NDJSON

    def make(self) -> list[dict[str, Any]]:
        return [self.event() for _ in range(self._chance.randrange(1, 60))]

    def send(self, envelopes: Sequence[dict[str, Any]]) -> Answer:
        body = b"".join(dumps(one) + b"\n" for one in envelopes)
        return self._client.send("POST", "/global/event", self._pieces(body), Content_Type=NDJSON)

    def _pieces(self, body: bytes) -> Iterator[bytes]:
        while body:
            size = self._chance.randrange(1, 20_000)
            yield body[:size]
            body = body[size:]


class Twins(Publisher):
    """A durable event and its sync twin, as upstream sends them: in sequence, so nothing may be left out."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._sequence = count()

    def make(self) -> list[dict[str, Any]]:
        plain = self.event(DIRECTORIES[0], "session.updated")
        name, data = plain["payload"]["id"], plain["payload"]["properties"]
        inner = {
            "id": name, "type": "session.updated.1", "seq": next(self._sequence), "aggregateID": f"ses_{self.name}",
            "data": data,
        }  # fmt: skip
        return [plain, {"directory": DIRECTORIES[0], "payload": {"type": "sync", "syncEvent": inner, "id": name}}]

    def send(self, envelopes: Sequence[dict[str, Any]]) -> Answer:
        return self._client.post("/global/event", dumps(envelopes))

    def tries_again(self, envelopes: Sequence[dict[str, Any]]) -> bool:
        return True


def cursors(first: str, last: str) -> list[str]:
    """Return the cursors from one to another of the same commit."""
    epoch, start = first.split("-")
    assert last.split("-")[0] == epoch
    return [f"{epoch}-{position}" for position in range(int(start), int(last.split("-")[1]) + 1)]


def four(url: str, ledger: Ledger, chance: random.Random, **more: Any) -> list[Publisher]:
    """Return one publisher of each kind."""
    kinds = {"o": Objects, "a": Arrays, "l": Lines, "t": Twins}
    return [kind(name, url, ledger, random.Random(chance.random()), **more) for name, kind in kinds.items()]


@contextmanager
def publishing(publishers: Sequence[Publisher]) -> Iterator[None]:
    """Have them publish in the block; in the end they are told to stop, if they were not already."""
    for publisher in publishers:
        publisher.start()
    try:
        yield
    finally:
        for publisher in publishers:
            publisher.abandon()
