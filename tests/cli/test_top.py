"""`top` in a terminal that is none: what is seen, which keys do what, and what becomes of a daemon that goes away."""

import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from click.testing import CliRunner
from textual.pilot import Pilot
from textual.strip import Strip

from opencode_events.cli.exits import Exit
from opencode_events.cli.main import main
from opencode_events.cli.top.dialogs import HELP, Note, Question
from opencode_events.cli.top.screen import Top
from opencode_events.cli.top.view import View
from opencode_events.cli.top.watch import Watch
from opencode_events.errors import DaemonError
from tests.cli.fakedaemon import Answer, FakeDaemon, json_answer, problem

SELECTION: dict[str, Any] = {
    "stream": "global", "format": "sse", "directory": None, "session": [], "types": [], "sync": "all", "workspace": [],
}  # fmt: skip


def report(number: int, **members: Any) -> dict[str, Any]:
    return {
        "id": number,
        "peer": f"192.0.2.1:{number}",
        "state": "live",
        "reason": None,
        "selection": SELECTION,
        "open_s": 5.0,
        "queued_events": 0,
        "queued_bytes": 0,
        "transport_bytes": 0,
        "sent_events": 0,
        "sent_bytes": 0,
        "lag_events": 0,
        "tcp_state": "ESTABLISHED",
        "verdict": "idle",
        "evict_in_s": None,
        "novelty": {"a": [1]},
    } | members


class Desk:
    """A daemon's answers, which a test changes between two looks; it is away while `is_away`."""

    def __init__(self, *reports: dict[str, Any]) -> None:
        self.reports = list(reports)
        self.pid = 1
        self.published = 0
        self.is_away = False
        self.upstream: dict[str, Any] = {}
        self.evicted: list[int] = []
        self.looks = 0
        self.url = ""

    def find(self) -> str | None:
        return None if self.is_away else self.url

    async def answer(self, request: web.BaseRequest) -> web.Response:
        if self.is_away:
            assert request.transport is not None
            request.transport.abort()
        if request.method == "DELETE":
            number = int(request.path.rpartition("/")[2])
            found = [each for each in self.reports if each["id"] == number]
            if not found:
                return web.json_response({"detail": f"there is no subscriber {number}", "field": "id"}, status=404)
            self.evicted.append(number)
            self.reports.remove(found[0])
            return web.json_response({"evicted": found[0]})
        if request.path == "/-/status":
            broker = {"published_events": self.published, "subscribers": len(self.reports)}
            status = {"version": "1", "pid": self.pid, "uptime_s": 1.0, "broker": broker}
            return web.json_response(status | ({"upstream": self.upstream} if self.upstream else {}))
        self.looks += 1
        return web.json_response({"subscribers": self.reports})


class Screen:
    """The app in its terminal, with a clock for the looks that a test moves."""

    def __init__(self, app: Top, pilot: Pilot[int], look: Callable[[], Awaitable[None]]) -> None:
        self.app = app
        self.look = look
        self.press = pilot.press
        self.pilot = pilot

    @property
    def lines(self) -> list[str]:
        """What is seen, without white space at the ends and empty lines."""
        width = self.app.size.width
        text = "".join(strip.text.ljust(width) + "\n" for strip in self.app.screen._compositor.render_strips())
        return [line.rstrip() for line in text.splitlines() if line.strip()]

    @property
    def rows(self) -> list[int]:
        """The numbers of the handles that are seen, in their order."""
        found = [re.match(r" *([0-9]+)  ", line) for line in self.lines]
        return [int(each[1]) for each in found if each]

    async def settle(self) -> None:
        """Wait until what was asked for has been done."""
        workers = [worker for worker in self.app.workers if worker.name == "evict"]
        if workers:
            await self.app.workers.wait_for_complete(workers)
        await self.pilot.pause()

    def says(self, text: str) -> bool:
        return any(text in line for line in self.lines)


@asynccontextmanager
async def watching(desk: Desk, *, size: tuple[int, int] = (120, 24), **view: Any) -> AsyncIterator[Screen]:
    """Look at a desk; the next look is when the test wants it."""
    server = web.ServerRunner(web.Server(desk.answer), shutdown_timeout=0)
    await server.setup()
    await web.TCPSite(server, "127.0.0.1", 0).start()
    desk.url = f"http://127.0.0.1:{server.addresses[0][1]}"
    now = iter(range(1_000))
    try:
        async with Watch(desk.find, clock=lambda: float(next(now))) as watch:
            app = Top(watch, await watch.look(), View(**view), 3600)
            app.soon_s = 3600

            async def look() -> None:
                before = desk.looks
                await app.look()
                assert desk.looks > before or desk.is_away
                await pilot.pause()

            async with app.run_test(size=size) as pilot:
                yield Screen(app, pilot, look)
    finally:
        await server.cleanup()


# --- what is seen


async def test_each_handle_has_a_row_and_the_one_that_lags_most_stands_first() -> None:
    desk = Desk(report(1), report(2, lag_events=1_300, queued_events=1_200, queued_bytes=3_000_000), report(3))
    async with watching(desk) as screen:
        assert screen.rows == [2, 1, 3]
        assert screen.lines[0] == "daemon      version 1  pid 1  up 1.0 s"
        assert screen.lines[3].split() == [
            "id", "peer", "state", "stream", "lag▼", "queued", "age", "per", "s", "tcp", "verdict",
        ]  # fmt: skip
        assert screen.lines[4] == (
            " 2  192.0.2.1:2  live   global  1 300  1 200, 3 MB  5.0 s      -  ESTABLISHED  idle"
        )


async def test_a_second_look_tells_rates() -> None:
    desk = Desk(report(1))
    async with watching(desk) as screen:
        desk.published = 120
        desk.reports = [report(1, sent_events=30, sent_bytes=4_000)]
        await screen.look()

        assert screen.says("120 published, 120/s  30/s sent, 4 kB/s")
        assert screen.says("5.0 s     30  ESTABLISHED")


@pytest.mark.parametrize(
    ("key", "order"), [("a", [2, 1, 3]), ("w", [3, 1, 2]), ("t", [3, 1, 2]), ("i", [1, 2, 3]), ("l", [3, 2, 1])]
)
async def test_a_key_sorts_and_the_same_key_turns_it_round(key: str, order: list[int]) -> None:
    desk = Desk(
        report(1, open_s=6, lag_events=9),
        report(2, open_s=7, lag_events=1),
        report(3, state="closing", queued_events=1),
    )
    async with watching(desk) as screen:
        await screen.press(key)  # by lag it is sorted already: turned round
        first = screen.rows
        await screen.press(key)

        assert first == order
        assert screen.rows[0] == {"w": 1, "t": 1}.get(key, order[-1])


async def test_a_click_on_a_column_sorts_by_it() -> None:
    async with watching(Desk(report(1), report(2, open_s=9))) as screen:
        assert screen.rows == [1, 2]
        await screen.pilot.click("Grid", offset=(screen.lines[3].index("age"), 0))

        assert screen.rows == [2, 1]


async def test_of_many_handles_only_those_that_are_seen_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(*(report(number) for number in range(1, 10_001)))
    async with watching(desk) as screen:
        drawn: list[int] = []
        grid = screen.app.grid
        render = grid.render_line

        def noted(y: int) -> Strip:
            drawn.append(y)
            return render(y)

        monkeypatch.setattr(grid, "render_line", noted)
        await screen.look()

        assert set(drawn) <= set(range(grid.size.height))
        assert screen.rows[:2] == [1, 2]
        await screen.press("end")
        await screen.pilot.pause()
        assert screen.rows[-1] == 10_000
        assert grid.chosen == 10_000


@pytest.mark.parametrize("size", [(200, 60), (80, 24), (40, 12), (20, 6), (10, 4), (1, 1)])
async def test_it_fits_into_whatever_terminal_there_is(size: tuple[int, int]) -> None:
    desk = Desk(*(report(number, lag_events=number) for number in range(1, 100)))
    async with watching(desk, size=size) as screen:
        await screen.look()
        await screen.press("down", "down", "pagedown", "end")

        if size >= (20, 6):
            assert screen.rows[-1] == 1
            assert "id" in screen.app.grid.render_line(0).text


async def test_columns_make_room_for_what_shows_how_far_down_it_is() -> None:
    """It comes when there are more handles than rows, or a row less for them: then, not with the next look."""
    desk = Desk(report(1, selection=SELECTION | {"directory": "/srv/" + "long" * 9}))
    async with watching(desk, size=(60, 15)) as screen:
        desk.reports += [report(number) for number in range(2, 30)]
        await screen.look()

        assert screen.app.grid.show_vertical_scrollbar
        assert screen.lines[3].split() == ["id", "peer", "state", "stream", "lag▼", "queued"]


async def test_what_steers_a_terminal_is_shown_and_does_not() -> None:
    selection = SELECTION | {"directory": "/a\x1b[31m[b]b"}
    async with watching(Desk(report(1, selection=selection))) as screen:
        assert screen.says(r"/a\x1b[31m[b]b")
        await screen.press("down", "e")
        assert screen.says(r"/a\x1b[31m[b]b")


async def test_what_a_person_should_look_at_stands_out() -> None:
    desk = Desk()
    async with watching(desk) as screen:
        desk.upstream = {"live": False, "trouble": "connection refused"}
        await screen.look()

        (line,) = [
            strip for strip in screen.app.screen._compositor.render_strips() if "connection refused" in strip.text
        ]
        assert {segment.style.bold for segment in line if segment.style and segment.text.strip()} == {True}
        desk.upstream["live"], desk.upstream["trouble"] = True, None
        await screen.look()
        (line,) = [
            strip for strip in screen.app.screen._compositor.render_strips() if strip.text.startswith("upstream")
        ]
        assert {bool(segment.style.bold) for segment in line if segment.style} == {False}


# --- keys


async def test_words_are_filtered_by_as_they_are_typed_and_escape_shows_all_again() -> None:
    desk = Desk(report(1, selection=SELECTION | {"directory": "/srv/a"}), report(2), report(3, verdict="suspect"))
    async with watching(desk) as screen:
        await screen.press("slash", *"sus")
        assert screen.rows == [3]
        assert screen.says("1 of 3 handles: sus")
        await screen.press("enter")
        desk.reports.append(report(4, verdict="suspect"))
        await screen.look()
        assert screen.rows == [3, 4]
        await screen.press("escape")
        assert screen.rows == [1, 2, 3, 4]


async def test_it_may_begin_filtered_and_sorted() -> None:
    async with watching(Desk(report(1), report(2), report(3)), wanted="#2", order="id") as screen:
        assert screen.rows == [2]


async def test_one_is_ended_when_the_question_is_answered_with_yes() -> None:
    desk = Desk(report(1), report(2), report(3))
    async with watching(desk) as screen:
        await screen.press("down", "down", "e")
        assert isinstance(screen.app.screen, Question)
        assert screen.says("End 2 (192.0.2.1:2, global)?")
        await screen.press("n")
        assert desk.evicted == []
        await screen.press("e", "y")
        await screen.settle()
        await screen.look()

        assert desk.evicted == [2]
        assert screen.says("2 is being ended")
        assert screen.rows == [1, 3]


async def test_the_one_that_was_asked_about_is_ended_wherever_it_stands_by_now() -> None:
    desk = Desk(report(1), report(2))
    async with watching(desk) as screen:
        await screen.press("down", "e")
        desk.reports = [report(1), report(2, lag_events=5)]
        await screen.look()
        await screen.press("y")
        await screen.settle()

        assert desk.evicted == [1]


async def test_what_is_chosen_is_a_handle_and_not_a_place() -> None:
    desk = Desk(report(1), report(2), report(3))
    async with watching(desk) as screen:
        await screen.press("down", "down")
        desk.reports = [report(1, lag_events=1), report(3, lag_events=2), report(2)]
        await screen.look()
        assert screen.app.grid.chosen == 2
        desk.reports.pop()
        await screen.look()

        assert screen.app.grid.chosen is None
        await screen.press("e")
        assert screen.says("choose a handle first")


async def test_one_that_has_gone_meanwhile_is_not_ended_and_that_is_told() -> None:
    desk = Desk(report(1))
    async with watching(desk) as screen:
        await screen.press("down", "e")
        desk.reports = []
        await screen.press("y")
        await screen.settle()

        assert screen.says("1 was not ended: id: there is no subscriber 1")


async def test_while_it_is_paused_nothing_is_asked() -> None:
    desk = Desk(report(1))
    async with watching(desk) as screen:
        await screen.press("p")
        assert screen.says("PAUSED")
        looks = desk.looks
        await screen.press("r")
        await screen.pilot.pause()
        assert desk.looks == looks
        await screen.press("p")
        await screen.pilot.pause(0.05)
        assert not screen.says("PAUSED")


async def test_the_keys_are_told_and_put_away() -> None:
    async with watching(Desk()) as screen:
        for key in ("q", "escape", "enter"):
            await screen.press("question_mark")
            assert isinstance(screen.app.screen, Note)
            assert screen.says("it is asked first")
            await screen.press(key)
            assert not isinstance(screen.app.screen, Note)
        assert screen.app.is_running


async def test_on_a_narrow_terminal_lines_are_broken_and_all_of_them_can_be_read() -> None:
    long = "/srv/" + "long" * 30
    async with watching(Desk(report(1, selection=SELECTION | {"directory": long})), size=(50, 40)) as screen:
        await screen.press("question_mark")
        shown = re.sub(r"[│\s]+", " ", " ".join(screen.lines))
        assert re.sub(r"\s+", " ", HELP) in shown
        await screen.press("escape", "down", "enter")
        assert long in re.sub(r"[│\s]+", "", " ".join(screen.lines))


async def test_all_that_is_known_of_a_handle_is_shown_when_asked_for() -> None:
    async with watching(Desk(report(1), report(2, peer="[::1]:7"))) as screen:
        await screen.press("end", "enter")

        assert screen.says("novelty          {'a': [1]}")
        assert screen.says("[::1]:7")


@pytest.mark.parametrize(("key", "code"), [("q", Exit.OK), ("ctrl+c", Exit.INTERRUPTED)])
async def test_it_is_left(key: str, code: Exit) -> None:
    async with watching(Desk(report(1))) as screen:
        await screen.press(key)

        assert screen.app.return_value is code


# --- a daemon that goes


async def test_a_daemon_that_is_away_is_told_of_and_comes_back() -> None:
    desk = Desk(report(1))
    async with watching(desk) as screen:
        desk.is_away = True
        await screen.look()
        assert screen.says("AWAY: ")
        await screen.look()
        assert screen.says("AWAY: not running")
        assert screen.rows == [1]
        await screen.press("down", "e", "y")
        await screen.settle()
        assert screen.says("1 was not ended: not running")
        desk.is_away, desk.pid, desk.reports = False, 2, [report(1), report(2)]
        await screen.look()

        assert not screen.says("AWAY")
        assert screen.rows == [1, 2]
        assert screen.says("pid 2")


# --- the command


def answers(*sent: int, pid: int = 1) -> list[Answer]:
    """Return what two looks get."""
    found = []
    for count in sent:
        found.append(json_answer({"pid": pid, "broker": {"published_events": count}}))
        found.append(json_answer({"subscribers": [report(1, sent_events=count), report(2, lag_events=4)]}))
    return found


def test_a_program_gets_one_look_with_rates(runner: CliRunner) -> None:
    with FakeDaemon(*answers(0, 50)) as daemon:
        result = runner.invoke(main, ["top", "--json", "--interval", "0.1", "--url", daemon.url])

    assert result.exit_code == 0, result.output
    shown = json.loads(result.output)
    assert list(shown) == ["url", "rates", "status", "subscribers"]
    assert shown["url"] == daemon.url
    assert [each["id"] for each in shown["subscribers"]] == [2, 1]
    assert shown["subscribers"][1]["novelty"] == {"a": [1]}
    assert 0 < shown["subscribers"][1]["events_per_s"] <= 500
    assert 0 < shown["rates"]["published_events"] <= 500


def test_a_program_gets_what_it_asks_for(runner: CliRunner) -> None:
    with FakeDaemon(*answers(0, 50)) as daemon:
        options = ["--interval", "0.1", "--sort", "id", "--filter", "#1"]
        result = runner.invoke(main, ["top", "--json", *options, "--url", daemon.url])

    assert [each["id"] for each in json.loads(result.output)["subscribers"]] == [1]


def test_it_shows_the_password_that_the_environment_has(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENCODE_SERVER_PASSWORD", "pw")
    with FakeDaemon(*answers(0, 0)) as daemon:
        runner.invoke(main, ["top", "--json", "--interval", "0.1", "--url", daemon.url])

    assert {asked.headers.get("Authorization") for asked in daemon.asked} == {"Basic b3BlbmNvZGU6cHc="}


def test_without_a_terminal_it_says_what_there_is_for_programs(runner: CliRunner) -> None:
    result = runner.invoke(main, ["top"])

    assert result.exit_code == 2
    assert "--json is for programs" in result.output


@pytest.mark.parametrize(("value", "code"), [("0", 2), ("x", 2), ("3601", 2)])
def test_an_interval_that_is_none_is_2(runner: CliRunner, value: str, code: int) -> None:
    assert runner.invoke(main, ["top", "--json", "--interval", value]).exit_code == code


def test_without_a_daemon_it_is_4(runner: CliRunner) -> None:
    result = runner.invoke(main, ["top", "--json"])

    assert (result.output, result.exit_code) == ("error: not running\n", 4)
    assert runner.invoke(main, ["top", "--json", "--url", "http://127.0.0.1:1"]).exit_code == 4


def test_a_refusal_is_1(runner: CliRunner) -> None:
    with FakeDaemon(problem(401, detail="no token")) as daemon:
        result = runner.invoke(main, ["top", "--json", "--url", daemon.url])

    assert (result.output, result.exit_code) == ("error: no token\n", 1)


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"subscribers":[{"id":"x"}]}'])
def test_a_stranger_is_told_from_a_daemon(runner: CliRunner, body: bytes) -> None:
    answer = Answer(kind="application/json", pieces=(body,))
    with FakeDaemon(answer, answer) as daemon:
        result = runner.invoke(main, ["top", "--json", "--url", daemon.url])

    assert " is not a daemon's answer" in result.output
    assert result.exit_code == 1


async def test_nobody_at_first_is_told_by_the_error_that_other_commands_have() -> None:
    async with Watch(lambda: None) as watch:
        with pytest.raises(DaemonError, match="not running"):
            await watch.look()


def test_the_other_commands_do_not_wait_for_its_library() -> None:
    program = "import sys, opencode_events.cli.main; sys.exit('textual' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
