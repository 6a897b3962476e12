"""What a subscriber wants: a stream and filters, frozen and hashable, so that all who want the same share one feed.

Pure. Filters act before buffering: an event that a selection does not match never touches its subscribers.
"""

import fnmatch
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from opencode_events.events import DISPOSED, GAP, NO_INSTANCE, Event, Stream
from opencode_events.prefixes import Prefixes
from opencode_events.wire import Format

Sync = Literal["all", "none", "only"]

# Different types, or directories, that a matcher remembers; opencode has 89, a hostile publisher may mint them.
REMEMBERED = 1_000
REMEMBERED_CHARS = 1_024


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """A stream, its format and its filters. Empty filters select everything; OR within one, AND across.

    `directory` is the instance stream's and None on the global one. `types` are globs (`*`, `?`, `[...]`). `within` is
    all that a global stream may know of: past it comes nothing but gaps, not even what no filter holds back.
    """

    stream: Stream
    form: Format = "sse"
    directory: str | None = None
    sessions: frozenset[str] = frozenset()
    types: frozenset[str] = frozenset()
    sync: Sync = "all"
    workspaces: frozenset[str] = frozenset()
    within: Prefixes | None = None

    def matcher(self) -> Callable[[Event], bool] | None:
        """Return the test that an event must pass, or None where every event of the stream does.

        What makes an instance's stream is not tested: its events are found by directory, and twins are none of them.
        """
        wanted = self._wanted()
        if self.within is None:
            return wanted
        may_know = _remembering(self.within.has)

        def matches(event: Event) -> bool:
            if event.directory is None:
                return is_gap(event)
            return may_know(event.directory) and (wanted is None or wanted(event))

        return matches

    def _wanted(self) -> Callable[[Event], bool] | None:
        """Return the test of the filters."""
        if self.directory == NO_INSTANCE:
            return lambda event: False
        sync = "all" if self.stream == "instance" else self.sync
        if not (self.sessions or self.types or self.workspaces) and sync == "all":
            return None
        sessions, workspaces = self.sessions, self.workspaces
        is_wanted_type = _type_test(self.types)

        def matches(event: Event) -> bool:
            if event.is_sync:
                if sync == "none":
                    return False
            elif event.type == DISPOSED or event.type == GAP:
                return True
            elif sync == "only":
                return False
            if sessions and event.session not in sessions:
                return False
            if workspaces and event.workspace is not None and event.workspace not in workspaces:
                return False
            return is_wanted_type is None or is_wanted_type(event.type)

        return matches


def is_gap(event: Event) -> bool:
    """Tell whether an event says that others are missing: it belongs to no directory, so every stream gets it."""
    return event.type == GAP and not event.is_sync and event.directory is None


def _type_test(globs: frozenset[str]) -> Callable[[str], bool] | None:
    """Return a test of a type against globs."""
    if not globs:
        return None
    pattern = re.compile("|".join(f"(?:{fnmatch.translate(glob)})" for glob in sorted(globs)))
    return _remembering(lambda kind: pattern.match(kind) is not None)


def _remembering(test: Callable[[str], bool]) -> Callable[[str], bool]:
    """Return `test`, which remembers what it has seen."""
    known: dict[str, bool] = {}

    def remembered(text: str) -> bool:
        found = known.get(text)
        if found is None:
            found = test(text)
            if len(known) < REMEMBERED and len(text) <= REMEMBERED_CHARS:
                known[text] = found
        return found

    return remembered
