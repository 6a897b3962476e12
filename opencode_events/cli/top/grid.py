"""The table of handles on a terminal: of however many there are, only the rows that are seen are made and drawn.

Textual's own table keeps a cell object for each value, and changes them one by one: 100 000 of them a look.
"""

from collections.abc import Sequence
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.binding import BindingType
from textual.events import Click, Resize
from textual.geometry import Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from opencode_events.cli.columns import GAP, LIVE, ORDERS, Column, cells, fitting, joined
from opencode_events.cli.render import printable
from opencode_events.cli.top.handles import Handle
from opencode_events.cli.top.view import View

HEAD = Style(bold=True, underline=True)
CHOSEN = Style(reverse=True)
PLAIN = Style()
# By state, and by what the watchdog says, which wins.
COLOURS = {
    "closing": Style(color="magenta"),
    "catching_up": Style(color="cyan"),
    "replaying": Style(color="cyan"),
    "suspect": Style(color="yellow", bold=True),
    "evict": Style(color="red", bold=True),
}


class Grid(ScrollView, can_focus=True):
    """Shows rows, and which one is chosen: the same handle wherever it goes, not the same place."""

    DEFAULT_CSS = "Grid { height: 1fr; overflow-x: hidden; }"

    BINDINGS: ClassVar[list[BindingType]] = [
        ("up,k", "move(-1)"),
        ("down,j", "move(1)"),
        ("pageup", "page(-1)"),
        ("pagedown", "page(1)"),
        ("home", "edge(0)"),
        ("end", "edge(-1)"),
    ]

    chosen: reactive[int | None] = reactive(None)

    class SortBy(Message):
        """Somebody has clicked on a column that rows can be sorted by."""

        def __init__(self, order: str) -> None:
            self.order = order
            super().__init__()

    def __init__(self, view: View) -> None:
        super().__init__()
        self._view = view
        self.rows: Sequence[Handle] = ()
        self._widths = [0] * len(LIVE)
        self._shown: list[tuple[Column, int]] = []
        self._fits_into = 0

    def show(self, rows: Sequence[Handle], *, anew: bool = False) -> None:
        """Show these rows. `anew`: others than before, so columns may become narrower."""
        self.rows = rows
        if anew:
            self._widths = [0] * len(LIVE)
        if self.chosen is not None and self._place() is None:
            self.chosen = None
        self.virtual_size = Size(0, len(rows) + 1)
        self._fit()
        self.refresh()

    @property
    def chosen_handle(self) -> Handle | None:
        """The handle that is chosen."""
        place = self._place()
        return None if place is None else self.rows[place]

    def _place(self) -> int | None:
        if self.chosen is None:
            return None
        return next((at for at, handle in enumerate(self.rows) if handle.id == self.chosen), None)

    @property
    def _room(self) -> int:
        """The columns of the terminal that there are beside the scroll bar, which comes and goes."""
        return self.scrollable_content_region.width

    @property
    def _page(self) -> int:
        return max(1, self.size.height - 1)

    def _fit(self) -> None:
        """Make columns as wide as what is seen needs. They do not become narrower by themselves: it would flicker."""
        first = self.scroll_offset.y
        seen = self.rows[first : first + self._page]
        for at, column in enumerate(LIVE):
            needed = max((cells(printable(column.show(handle))) for handle in seen), default=0)
            self._widths[at] = max(self._widths[at], needed, len(self._title(column)))
        self._fits_into = self._room
        self._shown = fitting(LIVE, self._widths, self._fits_into)

    def _title(self, column: Column) -> str:
        return column.name + (self._view.mark if self._order(column) == self._view.order else "")

    @staticmethod
    def _order(column: Column) -> str | None:
        return column.name if column.name in ORDERS else None

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Rows have come into sight."""
        super().watch_scroll_y(old_value, new_value)
        self._fit()

    def on_resize(self, event: Resize) -> None:
        """There is more room, or less."""
        self._fit()
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """Return one line of what is seen."""
        if self._fits_into != self._room:
            self._fit()
        columns, widths = [column for column, _ in self._shown], [space for _, space in self._shown]
        if y == 0:
            return self._strip(joined(columns, [self._title(column) for column in columns], widths), HEAD)
        at = self.scroll_offset.y + y - 1
        if at >= len(self.rows):
            return self._strip("", PLAIN)
        handle = self.rows[at]
        style = COLOURS.get(str(handle.verdict)) or COLOURS.get(str(handle.state)) or PLAIN
        if self.chosen is not None and handle.id == self.chosen:
            style += CHOSEN
        return self._strip(joined(columns, [printable(column.show(handle)) for column in columns], widths), style)

    def _strip(self, text: str, style: Style) -> Strip:
        base = self.rich_style
        return Strip([Segment(text, base + style)]).adjust_cell_length(self._room, base + style)

    def action_move(self, rows: int) -> None:
        """Choose another handle, so many rows on; the first one that is seen if none was chosen."""
        place = self._place()
        self._choose(self.scroll_offset.y if place is None else place + rows)

    def action_page(self, pages: int) -> None:
        """Choose a handle so many pages on."""
        place = self._place()
        self._choose((self.scroll_offset.y if place is None else place) + pages * self._page)

    def action_edge(self, place: int) -> None:
        """Choose the first handle, or (-1) the last."""
        self._choose(place if place >= 0 else len(self.rows) - 1)

    def _choose(self, place: int) -> None:
        if not self.rows:
            return
        place = min(max(place, 0), len(self.rows) - 1)
        self.chosen = self.rows[place].id
        first = self.scroll_offset.y
        if place < first:
            self.scroll_to(y=place, animate=False)
        elif place >= first + self._page:
            self.scroll_to(y=place - self._page + 1, animate=False)
        self.refresh()

    def on_click(self, event: Click) -> None:
        """Choose a row, or sort by a column."""
        if event.y > 0:
            place = self.scroll_offset.y + event.y - 1
            if place < len(self.rows):
                self._choose(place)
            return
        left = 0
        for column, space in self._shown:
            if left <= event.x < left + space and (order := self._order(column)) is not None:
                self.post_message(self.SortBy(order))
            left += space + len(GAP)
