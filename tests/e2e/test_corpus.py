"""A whole recording of the shapes that a real server sends, posted as one stream: six subscribers get it complete, in
order and byte for byte, each instance up to its disposal.
"""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.clients import NDJSON, Stream, dumps, until
from tests.samples import RECORDING
from tests.servers import Daemon

DIRECTORIES = ["/srv/proj-a", "/srv/proj-b", "/srv/ä b", "/srv/proj-d"]
LARGEST = 73_526

# Shares as recorded: a quarter of all events have a twin, most are small, a few carry most of the bytes.
DURABLE = ["message.updated", "message.part.updated", "session.updated", "session.next.step.failed"]
TRANSIENT = ["message.part.delta", "session.status", "session.idle", "permission.asked", "todo.updated"]


@dataclass
class Recording:
    """Lines as a `GET /global/event` wrote them. `taken` are those that the daemon takes."""

    lines: list[bytes] = field(default_factory=list)
    taken: list[bytes] = field(default_factory=list)

    def add(self, value: object, *, is_own: bool = False) -> None:
        text = dumps(value)
        self.lines.append(text)
        if not is_own:
            self.taken.append(text)

    def of_instance(self, directory: str) -> list[bytes]:
        """Return the payloads that an instance stream carries, up to the disposal."""
        found = []
        for line in self.taken:
            event = json.loads(line)
            if event.get("directory") == directory and event["payload"]["type"] != "sync":
                start = line.index(b'"payload":') + len(b'"payload":')
                found.append(line[start:-1])
                if event["payload"]["type"] == "server.instance.disposed":
                    break
        return found


def synthetic() -> Recording:
    """Return a recording of about 5 000 events."""
    chance = random.Random(1)
    made = Recording()
    made.add({"payload": {"id": "evt_c", "type": "server.connected", "properties": {}}}, is_own=True)
    sequences: dict[str, int] = {}
    for number in range(3_900):
        directory = chance.choice(DIRECTORIES)
        session = f"ses_{DIRECTORIES.index(directory)}_{chance.randrange(6)}"
        size = min(int(chance.paretovariate(0.9) * 60), LARGEST) if number else LARGEST
        text = "".join(chance.choices('abc \\"\n\u2028\U0001f600é', k=min(size, 200))) + "x" * max(0, size - 200)
        event: dict[str, Any] = {"id": f"evt_{number:08x}"}
        project = {"directory": directory, "project": "f46300202c4f33c69701a671f22ddf81a1c74c7a"}
        if number % 500 == 499:
            heartbeat = {"id": f"evt_h{number}", "type": "server.heartbeat", "properties": {}}
            made.add({"payload": heartbeat}, is_own=True)
        if number % 97 == 0:
            event |= {"type": "project.updated", "properties": {"text": text}}
            made.add({"directory": "global", "payload": event})
        elif number % 3 == 0:
            kind, seq = chance.choice(DURABLE), sequences.get(session, -1) + 1
            sequences[session] = seq
            data = {"sessionID": session, "text": text}
            made.add({**project, "payload": {**event, "type": kind, "properties": data}})
            twin = {**event, "type": f"{kind}.1", "seq": seq, "aggregateID": session, "data": data}
            made.add({**project, "payload": {"type": "sync", "syncEvent": twin, **event}})
        else:
            properties = {"sessionID": session, "delta": text}
            payload = {"type": chance.choice(TRANSIENT), "properties": properties, **event}
            made.add({**project, "payload": payload})
        if number in (2_500, 3_000, 3_500):
            gone = DIRECTORIES[(2_500, 3_000, 3_500).index(number)]
            disposed = {"id": f"evt_d{number}", "type": "server.instance.disposed", "properties": {"directory": gone}}
            made.add({"directory": gone, "payload": disposed})
    last = {"id": "evt_last", "type": "server.instance.disposed", "properties": {"directory": DIRECTORIES[3]}}
    made.add({"directory": DIRECTORIES[3], "payload": last})
    made.add({"directory": "global", "payload": {"type": "global.disposed", "properties": {}, "id": "evt_end"}})
    return made


def recorded() -> Recording:
    """Return the small recording of a real server.

    It was picked out of a longer one: its twins are numbered anew, for the sequence of an aggregate has no gaps.
    """
    made = Recording()
    sequences: dict[str, int] = {}
    for line in RECORDING.read_bytes().splitlines():
        if sync := json.loads(line)["payload"].get("syncEvent"):
            seq = sequences[sync["aggregateID"]] = sequences.get(sync["aggregateID"], -1) + 1
            line = line.replace(b'"seq":%d,"aggregateID"' % sync["seq"], b'"seq":%d,"aggregateID"' % seq)
        made.lines.append(line)
        if json.loads(line)["payload"]["type"] not in ("server.connected", "server.heartbeat"):
            made.taken.append(line)
    return made


@pytest.fixture(params=[synthetic, recorded], ids=["synthetic", "recorded"])
def recording(request: pytest.FixtureRequest) -> Recording:
    make: Any = request.param
    found: Recording = make()
    return found


def test_the_synthetic_one_is_what_it_claims_to_be() -> None:
    made = synthetic()

    types = [json.loads(line)["payload"]["type"] for line in made.taken]
    assert 5_000 < len(made.taken) < 5_500
    assert 0.2 < types.count("sync") / len(types) < 0.27
    assert types.count("server.instance.disposed") == 4
    assert max(map(len, made.taken)) > LARGEST
    assert len(made.lines) - len(made.taken) == 8


@pytest.mark.parametrize("form", ["text/event-stream", NDJSON])
def test_everybody_gets_it_complete_in_order_and_byte_for_byte(daemon: Daemon, recording: Recording, form: str) -> None:
    client = daemon.client
    directories = list(
        dict.fromkeys(
            json.loads(line)["directory"] for line in recording.taken if b'"type":"server.instance.disposed"' in line
        )
    )
    everything = [client.subscribe("/global/event", f"Accept: {form}") for _ in range(2)]
    instances: dict[str, Stream] = {
        directory: client.subscribe("/event", f"Accept: {form}", f"x-opencode-directory: {quoted(directory)}")
        for directory in directories
    }

    receipt = client.post("/global/event", b"\n".join(recording.lines), NDJSON).json

    assert receipt["accepted"] == len(recording.taken)
    assert receipt["skipped"] == len(recording.lines) - len(recording.taken)
    for stream in everything:
        frames = stream.events(len(recording.taken))
        assert [without_cursor(frame.data, frame.id, form) for frame in frames] == recording.taken
        places = [int((frame.id or "").split("-")[1]) for frame in frames]
        assert places == list(range(1, len(frames) + 1))
    for directory, stream in instances.items():
        frames = [frame for frame in stream.rest() if not frame.is_control]
        assert [without_cursor(frame.data, frame.id, form) for frame in frames] == recording.of_instance(directory)
        assert stream.ended == "clean"
    until(lambda: {each["state"] for each in client.subscribers()} == {"live"})


def quoted(text: str) -> str:
    """Return text as a URI component."""
    return "".join(f"%{byte:02X}" for byte in text.encode())


def without_cursor(data: bytes, cursor: str | None, form: str) -> bytes:
    """Return an event's bytes without the last member that NDJSON gives them."""
    if form != NDJSON:
        return data
    tail = f',"cursor":"{cursor}"}}'.encode()
    assert data.endswith(tail)
    return data[: -len(tail)] + b"}"


@pytest.mark.parametrize("end", ["none", "stop", "kill"])
def test_posting_it_again_changes_nothing(start_daemon: Callable[..., Daemon], recording: Recording, end: str) -> None:
    """By the same daemon, or the one after it."""
    daemon = start_daemon()
    body = b"\n".join(recording.lines)
    first = daemon.client.post("/global/event", body, NDJSON).json
    if end != "none":
        (daemon.stop if end == "stop" else daemon.kill)()
        daemon = start_daemon()
    stream = daemon.client.subscribe("/global/event?after=earliest")

    again = daemon.client.post("/global/event", body, NDJSON).json

    assert (first["accepted"], first["duplicates"]) == (len(recording.taken), 0)
    assert (again["accepted"], again["duplicates"], again["first"]) == (0, len(recording.taken), None)
    assert again["skipped"] == first["skipped"]
    last = daemon.client.publish({"payload": {"type": "t", "properties": {}}})["last"]
    frames = stream.events(len(recording.taken) + 1)
    assert [frame.data for frame in frames[:-1]] == recording.taken
    assert frames[-1].id == last
    assert int(last.split("-")[1]) == len(frames)
