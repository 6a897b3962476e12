"""`top` on a terminal: a head, the table of handles, and keys. What is shown is `view`'s, what is asked `watch`'s.

One task looks at the daemon, and draws what it got. While the daemon is away what was seen last stays, and a line says
so; whatever a person does meanwhile is answered at once.
"""

import asyncio
import contextlib
import time
from typing import ClassVar

from rich.text import Text
from textual import on, work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.events import Resize
from textual.widgets import Footer, Input, Static

from opencode_events.cli import columns
from opencode_events.cli.exits import Exit
from opencode_events.cli.overview import overview
from opencode_events.cli.render import printable
from opencode_events.cli.top.dialogs import HELP, Note, Question, details
from opencode_events.cli.top.grid import Grid
from opencode_events.cli.top.handles import Handle
from opencode_events.cli.top.view import Snapshot, View
from opencode_events.cli.top.watch import Watch
from opencode_events.errors import OpencodeEventsError

# Looking costs the daemon something for each handle: it may take so much of the time at most.
SHARE = 0.2
SOON_S = 0.5
# Seconds for which it is told what became of a key.
SAID_S = 10.0
TROUBLE = "bold red"
# The lines of the head, by how much they are needed.
RANKS = {name: at for at, name in enumerate(("events", "subscribers", "upstream", "log", "watchdog"))}


class Top(App[int]):
    """The view. `first` is what the first look brought; the next one is `interval_s` later."""

    CSS = """
    #head { height: auto; }
    #said { height: 1; display: none; color: $warning; text-style: bold; }
    #said.is-shown { display: block; }
    Input { display: none; height: 1; border: none; padding: 0; }
    Input.is-shown { display: block; }
    """
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "leave", "leave"),
        Binding("ctrl+c,ctrl+q", "interrupt", show=False, priority=True),
        Binding("question_mark,h", "help", "keys", key_display="?"),
        Binding("slash", "find", "filter", key_display="/"),
        Binding("e,delete", "evict", "end it", key_display="e"),
        Binding("p,space", "pause", "pause", key_display="p"),
        Binding("l", "sort('lag')", "lag"),
        Binding("w", "sort('queued')", "waits"),
        Binding("a", "sort('age')", "age"),
        Binding("t", "sort('state')", "state"),
        Binding("v", "sort('per s')", show=False),
        Binding("i", "sort('id')", show=False),
        Binding("r", "look", show=False),
        Binding("enter", "details", show=False),
        Binding("escape", "forget", show=False),
    ]

    def __init__(self, watch: Watch, first: Snapshot, view: View, interval_s: float) -> None:
        super().__init__()
        self._watch = watch
        self._snapshot = first
        self._view = view
        self._interval_s = interval_s
        self.soon_s = SOON_S
        self._is_paused = False
        self._away: str | None = None
        self._done, self._done_until_s = "", 0.0
        self._wake = asyncio.Event()
        self._head = Static(id="head", markup=False)
        self._said = Static(id="said", markup=False)
        self._input = Input(placeholder="words to filter by; enter, escape", id="filter", compact=True)
        self.grid = Grid(view)

    def compose(self) -> ComposeResult:
        """Return the widgets."""
        yield self._head
        yield self._said
        yield self._input
        yield self.grid
        yield Footer(compact=True, show_command_palette=False)

    def on_mount(self) -> None:
        """Begin."""
        self.grid.focus()
        self._input.value = self._view.wanted
        self.draw(anew=True)
        self.look_again()

    def on_resize(self, event: Resize) -> None:
        """There is more room, or less."""
        self.call_after_refresh(self._draw_head)

    # --- what is seen

    @work(exit_on_error=True)
    async def look_again(self) -> None:
        """Look at the daemon, for as long as this runs."""
        pause_s: float | None = min(self._interval_s, self.soon_s)  # rates take two looks
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()
            self._wake.clear()
            if self._is_paused:
                pause_s = None
                continue
            began_s = time.monotonic()
            await self.look()
            pause_s = max(self._interval_s, (time.monotonic() - began_s) * (1 / SHARE - 1))

    async def look(self) -> None:
        """Look once, and draw what there is."""
        try:
            self._snapshot = await self._watch.look()
            self._away = None
        except OpencodeEventsError as error:
            self._away = str(error)
        self.draw()

    def draw(self, *, anew: bool = False) -> None:
        """Show what is known, `anew` if others are shown than before."""
        self.grid.show(self._view.rows(self._snapshot.handles), anew=anew)
        self._draw_head()

    def _draw_head(self) -> None:
        width, height = self.size
        lines = overview(self._snapshot.status, self._snapshot.rates)
        room = min(len(lines), max(1, (height - 4) // 2))
        if room < len(lines):  # on a small terminal what does not change goes first
            lines = sorted(lines, key=lambda line: (not line.is_trouble, RANKS.get(line.name, len(RANKS))))[:room]
        self._head.update(
            Text("\n").join(Text(line.shown(width), TROUBLE if line.is_trouble else "") for line in lines)
        )
        said = self._sentence()
        self._said.update(columns.cut(printable(said), width))
        self._said.set_class(bool(said), "is-shown")

    def _sentence(self) -> str:
        """Return what has to be said besides: the more important first."""
        said = []
        if self._away is not None:
            said.append(f"AWAY: {self._away}")
        if self._is_paused:
            said.append("PAUSED")
        if self._done and time.monotonic() < self._done_until_s:
            said.append(self._done)
        if self._view.wanted:
            shown = len(self.grid.rows)
            said.append(f"{shown} of {columns.counted(len(self._snapshot.handles), 'handle')}: {self._view.wanted}")
        return "  ·  ".join(said)

    # --- keys

    def action_leave(self) -> None:
        """Leave."""
        self.exit(Exit.OK)

    def action_interrupt(self) -> None:
        """Leave, by Ctrl-C."""
        self.exit(Exit.INTERRUPTED)

    async def action_help(self) -> None:
        """Show the keys."""
        await self.push_screen(Note(HELP.rstrip()))

    def action_sort(self, order: str) -> None:
        """Sort by this, or turn it round."""
        self._view.sort_by(order)
        self.draw(anew=True)

    @on(Grid.SortBy)
    def sort_by_column(self, message: Grid.SortBy) -> None:
        """Sort by a column that was clicked on."""
        self.action_sort(message.order)

    def action_pause(self) -> None:
        """Stop looking, or go on."""
        self._is_paused = not self._is_paused
        self._wake.set()
        self._draw_head()

    def action_look(self) -> None:
        """Look now."""
        self._wake.set()

    async def action_details(self) -> None:
        """Show all that is known of the chosen handle."""
        handle = self.grid.chosen_handle
        if handle is not None:
            await self.push_screen(Note(details(self._snapshot.whole([handle])[0])))

    def action_find(self) -> None:
        """Ask for words."""
        self._input.add_class("is-shown")
        self._input.focus()

    @on(Input.Changed)
    def find_as_typed(self, event: Input.Changed) -> None:
        """Show those with the words that have been typed so far."""
        self._view.wanted = event.value.strip()
        self.draw(anew=True)

    @on(Input.Submitted)
    def found(self) -> None:
        """Go back to the table."""
        self._input.remove_class("is-shown")
        self.grid.focus()

    def action_forget(self) -> None:
        """Show all again, choose none, and forget what was said."""
        self._done = ""
        self.grid.chosen = None
        self._input.value = ""
        self.found()
        self.draw(anew=True)

    def action_evict(self) -> None:
        """End the chosen handle, if that is what is wanted."""
        handle = self.grid.chosen_handle
        if handle is None:
            self._say("choose a handle first: up, down")
        else:
            self.ask_and_evict(handle)

    @work(name="evict")
    async def ask_and_evict(self, handle: Handle) -> None:
        """Ask, and end the handle that was asked about, wherever it stands by now."""
        if not await self.push_screen_wait(Question(handle)):
            return
        try:
            before = await self._watch.evict(handle.id)
        except OpencodeEventsError as error:
            self._say(f"{handle.id} was not ended: {error}")
            return
        self._say(f"{handle.id} {'was reset' if before.get('state') == 'closing' else 'is being ended'}")
        self._wake.set()

    def _say(self, sentence: str) -> None:
        self._done, self._done_until_s = sentence, time.monotonic() + SAID_S
        self._draw_head()
