"""Who may import whom: the picture below against the imports that `ast` finds in the package.

Nothing is imported to find out, so an import inside a function or under TYPE_CHECKING counts like any other: knowing
a type is knowing the part. Change the picture and the import in one commit, and say why there.
"""

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pytest

PACKAGE = "opencode_events"

# A room is a module or a folder directly below the package. A room sees those named here, whole or only one module
# of them, and itself. Rooms stand above what they use, so that each line may only name lines before it: no cycles.
PICTURE: dict[str, set[str]] = {
    "": set(),  # the package itself: importing any part must not import the others
    # 0 and 1: words that everybody uses
    "errors": set(),
    "jsontext": set(),
    "histogram": set(),
    "cursor": {"errors"},
    "preflight": set(),
    "upgrade": set(),
    "mint": set(),
    "sse": set(),
    "twins": {"jsontext"},
    "events": {"errors", "jsontext", "mint", "twins"},
    "declared": {"errors"},
    "access_settings": {"errors", "declared"},
    "log_settings": {"declared"},
    "settings": {"declared", "access_settings", "log_settings"},
    "configuration": {"errors", "declared", "settings"},
    "lockfile": set(),
    "statedir": {"errors", "lockfile"},
    "prefixes": set(),
    "secretfile": {"errors"},
    "holder": set(),
    "sockets": {"errors", "holder", "settings"},
    "systemd": {"errors"},
    "reloaders": {"settings"},
    # 2: they do not know each other
    "eventlog": {"errors", "cursor", "events", "settings", "twins", "lockfile"},
    "credentials": {"errors", "settings", "secretfile"},
    "tokens": {"errors", "prefixes", "secretfile"},
    "keys": {"errors", "settings", "secretfile", "credentials", "tokens", "sockets"},
    "listeners": {"settings", "sockets", "systemd", "keys"},
    "wire": {"errors", "jsontext", "cursor", "events", "mint"},
    "logs": {"errors", "log_settings"},
    # 3: the broker sees a protocol, not the databases that fulfil it
    "broker": {"errors", "histogram", "prefixes", "cursor", "events", "settings", "wire", "eventlog.base"},
    # ...and the watchdog sees the seam to what it watches, not what a subscriber is
    "watchdog": {"errors", "histogram", "settings", "sockets", "broker.watched"},
    # 4: they do not know each other, nor the watchdog
    "web": {
        "errors", "preflight", "upgrade", "jsontext", "histogram", "cursor", "twins", "events", "access_settings",
        "settings", "prefixes", "credentials", "tokens", "sockets", "logs", "wire", "eventlog.base", "broker",
    },
    "relay": {
        "errors", "preflight", "upgrade", "jsontext", "cursor", "twins", "events", "sse", "settings", "credentials",
        "sockets", "wire", "eventlog.base", "broker",
    },
    # ...nor those to whom a signal may bring other settings
    "service": {
        "errors", "settings", "reloaders", "sockets", "systemd", "logs", "eventlog", "broker", "watchdog",
    },
    "parts": {"settings", "keys", "listeners", "eventlog", "broker", "watchdog", "web"},
    # 5: the only one that knows all the parts
    "daemon": {
        "errors", "settings", "configuration", "keys", "statedir", "sockets", "listeners", "systemd", "reloaders",
        "service", "parts", "eventlog", "logs", "broker", "web", "relay",
    },
    # 6: these use the daemon from outside, over HTTP, like any stranger; only the command line may also start it
    "bench": {"errors", "events", "settings", "wire"},
    # ...and look into the log's file where no daemon needs to run.
    "cli": {
        "errors", "declared", "cursor", "events", "sse", "settings", "configuration", "credentials", "keys", "statedir",
        "eventlog", "wire", "logs", "daemon", "bench",
    },
    "__main__": {"cli"},
}  # fmt: skip

# What the broker must not even cause to be imported: it fans out without HTTP, and the database can be changed.
NOT_BELOW_THE_BROKER = {"aiohttp", "aiohttp_sse", "sqlite3"}

# Modules that run without a loop, a clock, a socket or a thread, so that a bug there is found with a three-line test.
PURE = {
    "errors", "declared", "prefixes", "jsontext", "histogram", "cursor", "mint", "preflight", "upgrade", "twins",
    "events", "sse", "wire", "broker.selection", "broker.announcement", "broker.backlog", "broker.feed",
    "relay.headers", "relay.jsonarray", "relay.lifecycle", "relay.past", "broker.budget", "broker.tally",
    "broker.outbox", "broker.recent", "eventlog.epochs", "watchdog.classify", "watchdog.track",
}  # fmt: skip
IMPURE = {
    "_thread", "aiohttp", "aiohttp_sse", "asyncio", "datetime", "multiprocessing", "select", "selectors", "signal",
    "socket", "sqlite3", "ssl", "subprocess", "threading", "time", "uvloop",
}  # fmt: skip
PURE_BUT = {"mint": {"time"}}  # the default of mint_id's argument `now_s`

# Two or three screens' worth of reading after which one knows a module. What is longer has two subjects; half a dozen
# short files with one subject each are found by name, and two people can change them at once.
MAX_LINES = 300


@dataclass(frozen=True)
class Module:
    """One file of the package."""

    name: str  # below the package: "broker.backlog"; "" for the package itself
    is_folder: bool  # whether it is an __init__.py
    source: str
    tree: ast.Module

    @property
    def room(self) -> str:
        return self.name.partition(".")[0]


@dataclass(frozen=True)
class Imports:
    """What one module imports."""

    inside: frozenset[str]  # names below the package
    outside: frozenset[str]  # the top names of other packages


def parse(files: Mapping[str, str]) -> dict[str, Module]:
    """Return the modules by name. `files` has the source by path below the package: "broker/backlog.py"."""
    found = {}
    for path, source in files.items():
        parts = PurePosixPath(path).with_suffix("").parts
        is_folder = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_folder else parts)
        found[name] = Module(name, is_folder, source, ast.parse(source, path))
    return found


def read_package() -> dict[str, Module]:
    root = Path(__file__).parent.parent / PACKAGE
    return parse({path.relative_to(root).as_posix(): path.read_text("utf-8") for path in sorted(root.rglob("*.py"))})


def nodes(tree: ast.AST, *, at_run_time: bool) -> Iterator[ast.AST]:
    """Yield every node below `tree`; `at_run_time` leaves out what only a type checker sees."""
    for child in ast.iter_child_nodes(tree):
        if at_run_time and isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for other in child.orelse:
                yield other
                yield from nodes(other, at_run_time=True)
            continue
        yield child
        yield from nodes(child, at_run_time=at_run_time)


def imports(module: Module, modules: Mapping[str, Module], *, at_run_time: bool = False) -> Imports:
    """Return what `module` imports. `from a import b` is an import of `a.b` if that is a module, of `a` if not."""
    inside, outside = set(), set()
    for node in nodes(module.tree, at_run_time=at_run_time):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = absolute(module, node)
            names = [f"{origin}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            top, _, below = name.partition(".")
            if top != PACKAGE:
                outside.add(top)
            elif isinstance(node, ast.ImportFrom) and below not in modules:
                inside.add(below.rpartition(".")[0])
            else:
                inside.add(below)
    return Imports(frozenset(inside), frozenset(outside))


def absolute(module: Module, node: ast.ImportFrom) -> str:
    """Return the full name of what `node` imports from: `from ..web` of broker.feed is opencode_events.web."""
    if node.level == 0:
        return node.module or ""
    here = [PACKAGE, *module.name.split(".")] if module.name else [PACKAGE]
    up = node.level - 1 if module.is_folder else node.level
    return ".".join(here[: len(here) - up] + ([node.module] if node.module else []))


def violations(modules: Mapping[str, Module]) -> list[str]:
    """Return a sentence for every import that the picture does not show."""
    found = []
    for module in modules.values():
        if module.room not in PICTURE:
            found.append(f"{module.name} is in no room of the picture")
            continue
        seen = PICTURE[module.room]
        for target in sorted(imports(module, modules).inside):
            room = target.partition(".")[0]
            if target and room != module.room and room not in seen and target not in seen:
                found.append(f"{module.name or PACKAGE} must not import {target}")
    return found


def reached(start: str, modules: Mapping[str, Module]) -> dict[str, str]:
    """Return the outside packages that importing room `start` imports, with the module of ours that does so.

    Follows Python: importing `a.b` runs `a` first.
    """
    waiting = [name for name, module in modules.items() if module.room == start]
    visited: set[str] = set()
    found: dict[str, str] = {}
    while waiting:
        name = waiting.pop()
        if name in visited or name not in modules:
            continue
        visited.add(name)
        names = imports(modules[name], modules, at_run_time=True)
        found |= dict.fromkeys(names.outside, name)
        for each in (name, *names.inside):
            waiting += [each, *(each.rsplit(".", depth)[0] for depth in range(1, each.count(".") + 1))]
    return found


@pytest.fixture(scope="module")
def package() -> dict[str, Module]:
    return read_package()


def test_no_import_goes_where_the_picture_has_no_arrow(package: dict[str, Module]) -> None:
    assert violations(package) == []


def test_the_picture_has_no_cycle_and_names_only_its_own_rooms() -> None:
    before: set[str] = set()
    for room, seen in PICTURE.items():
        assert {name.partition(".")[0] for name in seen} <= before, room
        before.add(room)


def test_the_broker_reaches_neither_http_nor_a_database(package: dict[str, Module]) -> None:
    found = reached("broker", package)

    assert {name: found[name] for name in NOT_BELOW_THE_BROKER & found.keys()} == {}


def test_only_the_command_that_runs_it_brings_the_daemon_along(package: dict[str, Module]) -> None:
    """The other commands use it from outside; completion has to be quick."""
    cli = [module for module in package.values() if module.room == "cli"]

    assert {module.name for module in cli if "daemon" in imports(module, package).inside} <= {"cli.serve"}


@pytest.mark.parametrize("name", sorted(PURE))
def test_a_pure_module_knows_no_loop_no_clock_and_no_socket(name: str, package: dict[str, Module]) -> None:
    outside = imports(package[name], package).outside

    assert outside & IMPURE == PURE_BUT.get(name, set())


def test_no_module_has_the_name_of_one_in_the_standard_library(package: dict[str, Module]) -> None:
    taken = [name for name in package if name.rpartition(".")[2] in sys.stdlib_module_names - {"__main__"}]

    assert taken == []


def test_every_folder_is_a_package(package: dict[str, Module]) -> None:
    folders = {name.rpartition(".")[0] for name in package if name}

    assert folders - package.keys() == set()


def test_every_module_says_what_it_is_for(package: dict[str, Module]) -> None:
    silent = [name for name, module in package.items() if not ast.get_docstring(module.tree)]

    assert silent == []


def test_no_module_is_longer_than_one_sitting(package: dict[str, Module]) -> None:
    lines = {name: len(module.source.splitlines()) for name, module in package.items()}

    assert {name: count for name, count in lines.items() if count > MAX_LINES} == {}


FORBIDDEN = {
    "import": "import opencode_events.web.app",
    "import as": "import opencode_events.web.app as app",
    "from a module": "from opencode_events.web.app import build",
    "from a folder": "from opencode_events.web import app",
    "from the package": "from opencode_events import web",
    "relative": "from ..web.app import build",
    "relative folder": "from .. import web",
    "in a function": "def build():\n    from opencode_events.web import app",
    "for types only": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from opencode_events.web import app",
}


@pytest.mark.parametrize("source", FORBIDDEN.values(), ids=FORBIDDEN.keys())
def test_an_import_up_the_picture_is_found_however_it_is_written(source: str) -> None:
    modules = parse({"broker/feed.py": source, "broker/__init__.py": "", "web/__init__.py": "", "web/app.py": ""})

    assert violations(modules) in (["broker.feed must not import web.app"], ["broker.feed must not import web"])


def test_one_module_of_a_room_may_be_seen_and_its_neighbour_not() -> None:
    files = {"eventlog/__init__.py": "", "eventlog/base.py": "", "eventlog/sqlite.py": ""}
    good = "from opencode_events.eventlog.base import EventLog\nfrom opencode_events.eventlog import base"
    bad = "from opencode_events.eventlog.sqlite import SqliteLog"

    assert violations(parse({**files, "broker/feed.py": good})) == []
    assert violations(parse({**files, "broker/feed.py": bad})) == ["broker.feed must not import eventlog.sqlite"]


def test_a_room_sees_itself_the_version_and_what_is_below_it() -> None:
    source = (
        "from opencode_events import __version__, errors\nfrom . import feed\nfrom .feed import Feed\nimport asyncio"
    )
    modules = parse({"__init__.py": "", "errors.py": "", "broker/feed.py": "", "broker/broker.py": source})

    assert violations(modules) == []


def test_a_new_room_must_be_drawn_first() -> None:
    assert violations(parse({"attic/box.py": ""})) == ["attic.box is in no room of the picture"]


def test_a_database_behind_a_door_that_the_broker_opens_is_found() -> None:
    modules = parse(
        {
            "broker/feed.py": "from opencode_events.eventlog.base import EventLog",
            "eventlog/__init__.py": "from opencode_events.eventlog.sqlite import SqliteLog",
            "eventlog/base.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import aiohttp",
            "eventlog/sqlite.py": "import sqlite3",
        }
    )

    assert violations(modules) == []
    assert reached("broker", modules) == {"sqlite3": "eventlog.sqlite", "typing": "eventlog.base"}
