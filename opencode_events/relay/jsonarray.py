"""Cuts a JSON array of objects into the texts of its items as it arrives, without decoding any.

Owns where an item begins and ends, as RFC 8259 has strings and brackets; what is inside is the decoder's to judge.
Pure. Each byte is looked at when it comes and not again, and one unfinished item at most is held, up to a limit: a
longer one is passed over, and leaves an empty text.
"""

import re

# In text without escaped backslashes a quote is escaped if there is a backslash before it. Classes of one character are
# several times as fast as those of two, so only quotes are looked for, and what stands before them then.
PAIR = rb"\\"
HIDDEN = b"__"
IN_STRING = re.compile(rb'[^"]*+(?:(?<=\\)"[^"]*+)*+')
# Whatever opens and closes nothing: whole strings, and all that stands between strings and brackets.
PLAIN = re.compile(rb'[^"{}\[\]]*+(?:"[^"]*+(?:(?<=\\)"[^"]*+)*+"[^"{}\[\]]*+)*+')
SPACE = re.compile(rb"[ \t\r\n]*+")
QUOTE = ord('"')
OPENING = frozenset(b"{[")

# What is expected between items.
BEGINNING = "the beginning of an array"
FIRST = "an object or the end of the array"
COMMA = "a comma or the end of the array"
NEXT = "an object"
END = "nothing more"
# What follows upon which byte.
STEPS = {
    BEGINNING: {ord("["): FIRST},
    FIRST: {ord("]"): END},
    COMMA: {ord(","): NEXT, ord("]"): END},
    NEXT: {},
    END: {},
}  # fmt: skip


class ItemSplitter:
    """Takes pieces that are cut anywhere and returns whole items, as they are written.

    Once it has raised ValueError it is of no more use.
    """

    def __init__(self, max_item_bytes: int) -> None:
        self._max_item_bytes = max_item_bytes
        self._expected = BEGINNING
        self._place = 0  # of the piece in the whole text
        # Of the item that has not ended, if there is one:
        self._item = bytearray()
        self._size = 0  # of what has come of it, held or not
        self._depth = 0
        self._in_string = False
        self._after_backslash = False

    def feed(self, piece: bytes) -> list[bytes]:
        """Return the items that `piece` completes. Raises ValueError for what is no array of objects."""
        text = self._without_pairs(piece)
        found = []
        at = 0
        while True:
            if not self._depth:
                at = self._find_item(piece, at)
                if at == len(piece):
                    break
            end = self._find_end(text, at)
            self._size += end - at
            is_too_long = self._size > self._max_item_bytes
            if is_too_long:
                self._item.clear()
            if self._depth:
                if not is_too_long:
                    self._item += piece[at:end]
                break
            found.append(b"" if is_too_long else bytes(self._item) + piece[at:end])
            self._item.clear()
            self._size = 0
            self._expected = COMMA
            at = end
        self._place += len(piece)
        return found

    def finish(self) -> None:
        """Check that the text may end here. Raises ValueError if it may not."""
        if self._depth:
            raise ValueError(f"the text ends at byte {self._place}, inside an item")
        if self._expected is not END:
            raise ValueError(f"the text ends at byte {self._place}, where {self._expected} is expected")

    def _find_item(self, piece: bytes, at: int) -> int:
        """Return where the next item begins at or behind `at`, or the end of the piece."""
        while True:
            at = SPACE.match(piece, at).end()  # type: ignore[union-attr]  # matches everywhere
            if at == len(piece):
                return at
            byte = piece[at]
            if byte == ord("{") and self._expected in (FIRST, NEXT):
                return at
            if byte not in STEPS[self._expected]:
                raise ValueError(f"{chr(byte)!r} at byte {self._place + at}, where {self._expected} is expected")
            self._expected = STEPS[self._expected][byte]
            at += 1

    def _find_end(self, text: bytes, at: int) -> int:
        """Return the place behind the item that is unfinished, or begins, at `at`, or the end of the text."""
        while at < len(text):
            at = (IN_STRING if self._in_string else PLAIN).match(text, at).end()  # type: ignore[union-attr]
            if at == len(text):
                break
            byte = text[at]
            at += 1
            if byte == QUOTE:  # PLAIN passes over a string that is whole, so this one ends here or is cut
                self._in_string = not self._in_string
            elif byte in OPENING:
                self._depth += 1
            else:
                self._depth -= 1
                if not self._depth:
                    break
        return at

    def _without_pairs(self, piece: bytes) -> bytes:
        """Return `piece`, with the same length, without backslashes in strings that are escaped, or escape one."""
        if not piece:
            return piece
        # Outside a string there is none in valid JSON, and there it escapes nothing.
        is_escaped = self._after_backslash and self._in_string
        text = HIDDEN[:is_escaped] + piece[is_escaped:].replace(PAIR, HIDDEN)
        self._after_backslash = text.endswith(b"\\")
        return text
