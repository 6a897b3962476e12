"""What `top` lays over its table: the question before a handle is ended, and the keys."""

from collections.abc import Mapping
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from opencode_events.cli import columns
from opencode_events.cli.render import printable
from opencode_events.cli.top.handles import Handle

HELP = """\
up down k j     choose a handle; also page up and down, home, end, the mouse
e  delete       end the chosen handle: it is asked first
enter           all that is known of the chosen handle
/               show only those with the words that follow: of the address,
                the state, the stream, the connection; or #42
escape          show all again, choose none
l w a t v i     sort by lag, what waits, age, state, events per second, id;
                a second time turns it round
p  space        pause: what is seen stays
r               look now
?  h            this
q               leave
"""


class Note(ModalScreen[None]):
    """A text that stays until it is put away."""

    DEFAULT_CSS = """
    Note { align: center middle; }
    Note > VerticalScroll { width: auto; max-width: 96%; height: auto; max-height: 96%; background: $panel;
        padding: 0 1; border: round $primary; }
    Note Static { width: auto; max-width: 100%; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [("escape,enter,space,q,h,question_mark", "away")]

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    def compose(self) -> ComposeResult:
        """Return the widgets."""
        with VerticalScroll(can_focus=True):
            yield Static(self.text, markup=False)

    def action_away(self) -> None:
        """Put it away. Nothing waits here until it has gone: it is this screen that has to go."""
        _ = self.dismiss()


class Question(ModalScreen[bool]):
    """A yes or no about one handle, which stays the one that it was asked of."""

    DEFAULT_CSS = """
    Question { align: center middle; }
    Question > Static { width: auto; max-width: 96%; height: auto; max-height: 96%; background: $panel; padding: 0 1;
        border: round $error; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [("y", "answer(True)"), ("n,escape,q", "answer(False)")]

    def __init__(self, handle: Handle) -> None:
        super().__init__()
        self.handle = handle

    def compose(self) -> ComposeResult:
        """Return the widgets."""
        yield Static(question(self.handle), markup=False)

    def action_answer(self, is_yes: bool) -> None:
        """Answer it."""
        _ = self.dismiss(is_yes)


def question(handle: Handle) -> str:
    """Return what is asked before a handle is ended."""
    who = f"{columns.text(handle, 'id')} ({columns.text(handle, 'peer')}, {columns.stream(handle)})"
    waits = f"waiting to be read: {columns.queued(handle)}"
    if handle.state == "closing":
        return f"Reset {printable(who)}?\nIt is being ended already; {waits}, which is lost.\n\ny yes   n no"
    return f"End {printable(who)}?\nIt is told, and may read what waits; {waits}.\n\ny yes   n no"


def details(members: Mapping[str, object]) -> str:
    """Return all that is known of a handle, a line a member."""
    width = max(map(len, members), default=0)
    shown = {name: columns.stream(members) if name == "selection" else _shown(value) for name, value in members.items()}
    return "\n".join(f"{name:<{width}}  {printable(text)}" for name, text in shown.items())


def _shown(value: object) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.6g}"
        case _:
            return str(value)
