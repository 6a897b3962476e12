"""What an opencode server keeps over its restarts: durable events, and the two frames that each was sent as."""

import itertools
from dataclasses import dataclass, field
from typing import Any

from tests.clients import dumps

# Of events, over all servers that there are in a test.
NUMBERS = itertools.count(1)


@dataclass
class Home:
    """Where a session's events come from, and how many there are."""

    directory: str
    project: str
    count: int = 0


@dataclass
class Memory:
    """What a server keeps: its durable events as rows, and under which envelope each was sent, by its id."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    homes: dict[str, Home] = field(default_factory=dict)
    envelopes: dict[str, tuple[str, str]] = field(default_factory=dict)
    places_told: bool = True  # whether a session's first event tells its directory

    def note(self, session: str, kind: str, data: dict[str, Any]) -> dict[str, Any]:
        """Keep the next durable event of a session, and return its row."""
        home = self.homes.setdefault(session, Home("/srv/a", "prj_a"))
        number = next(NUMBERS)
        row = {
            "id": f"evt_{number}",
            "aggregate_id": session,
            "seq": home.count,
            "type": f"{kind}.1",
            "data": {"sessionID": session, **data},
        }
        home.count += 1
        self.rows.append(row)
        self.envelopes[f"evt_{number}"] = (home.directory, home.project)
        return row

    def frames(self, row: dict[str, Any]) -> tuple[bytes, bytes]:
        """Return both twins of a row, as the stream has them."""
        directory, project = self.envelopes[row["id"]]
        where = {"directory": directory, "project": project}
        plain = {"id": row["id"], "type": row["type"].removesuffix(".1"), "properties": row["data"]}
        inner = {"id": row["id"], "type": row["type"], "seq": row["seq"], "aggregateID": row["aggregate_id"]}
        sync = {"type": "sync", "syncEvent": inner | {"data": row["data"]}, "id": row["id"]}
        return dumps(where | {"payload": plain}), dumps(where | {"payload": sync})

    def forget(self, count: int) -> "Memory":
        """Return what an older copy of this would hold, without the last `count` rows."""
        older = Memory(self.rows[: len(self.rows) - count], places_told=self.places_told)
        for row in older.rows:
            home = self.homes[row["aggregate_id"]]
            older.homes[row["aggregate_id"]] = Home(home.directory, home.project, row["seq"] + 1)
            older.envelopes[row["id"]] = self.envelopes[row["id"]]
        return older
