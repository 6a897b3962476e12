"""Every error that the package raises on purpose, in one tree.

    OpencodeEventsError
    ├── SettingError        the operator's: a setting that cannot be used
    ├── RequestError        the caller's: carries the HTTP status and the problem's fields
    │   ├── InvalidEvent        what was published is not an event
    │   ├── InvalidFilter       a subscription asks for something that cannot be
    │   ├── InvalidQuery        another question that cannot be answered
    │   ├── NoSuchSubscriber    the one to be ended is not there
    │   ├── TooLarge            over a limit in bytes
    │   ├── OutOfSequence       a sync event is not the next one of its aggregate
    │   ├── UnsupportedMedia    a content type or coding that is not taken
    │   ├── Forbidden           the Host, the Origin, the token or the settings do not allow it
    │   ├── TooMany             one caller's share of something is used up; try again later
    │   ├── UpstreamAway        the server behind the shield cannot be reached, or broke off
    │   │   └── UpstreamLocked      ...or wants a password that is not there
    │   └── UpstreamSlow        ...or does not answer in time
    ├── Busy                nobody's: a limit on how much at once; try again later
    ├── LogUnavailable      the store's: nothing can be appended at the moment
    └── DaemonError         the process's: it cannot start, or is not there

Errors carry values and compose their sentence in `__str__`. Errors of aiohttp, sqlite3 and msgspec are
translated into these where they enter.
"""

from typing import ClassVar

# Why nothing is taken any more: the broker, whoever reads a body and `/-/ready` say it alike.
ENDING = "the daemon is shutting down"


class OpencodeEventsError(Exception):
    """The root of the tree. `str()` is one sentence for a person.

    `counts` tells what was done before the error; it is only there for a stream of NDJSON.
    """

    counts: dict[str, object] = {}  # noqa: RUF012  # never changed, only replaced, on the instance


class SettingError(OpencodeEventsError):
    """A setting is unknown or has a bad value. `name` is the setting's, `source` tells where the value came from."""

    def __init__(self, name: str, reason: str, *, source: str = "") -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason
        self.source = source

    def __str__(self) -> str:
        where = f" ({self.source})" if self.source else ""
        return f"{self.name}{where}: {self.reason}"


class RequestError(OpencodeEventsError):
    """The caller asked for something that cannot be done.

    `field` names the member, parameter or header at fault; `line` (1-based) the line of an NDJSON body, `index`
    (0-based) the item of an array; `limit` the number that was passed.
    """

    status: ClassVar[int] = 400
    title: ClassVar[str] = "Bad request"

    def __init__(
        self,
        detail: str,
        *,
        field: str | None = None,
        limit: int | None = None,
        line: int | None = None,
        index: int | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.field = field
        self.limit = limit
        self.line = line
        self.index = index

    def __str__(self) -> str:
        return self.detail

    def members(self) -> dict[str, object]:
        """Return the members of the problem document (RFC 9457, section 3) that are known."""
        known = {"field": self.field, "limit": self.limit, "line": self.line, "index": self.index}
        return {name: value for name, value in known.items() if value is not None}


class InvalidEvent(RequestError):
    """The published text is not an event of the documented shape."""

    title = "Invalid event"


class InvalidFilter(RequestError):
    """A parameter of a subscription cannot be used."""

    title = "Invalid subscription"


class InvalidQuery(RequestError):
    """The body of a question, such as that for the history, cannot be used."""

    title = "Invalid query"


class NoSuchSubscriber(RequestError):
    """Nobody has that number, or has it any more."""

    status = 404
    title = "No such subscriber"


class TooLarge(RequestError):
    """A body or an event is over its limit, which is in `limit` (bytes)."""

    status = 413
    title = "Too large"


class OutOfSequence(RequestError):
    """A sync event is not the next one of its aggregate, nor one that is held already. `index` is its batch's item."""

    status = 409
    title = "Out of sequence"


class UnsupportedMedia(RequestError):
    """The body has a content type or a content coding that is not taken."""

    status = 415
    title = "Unsupported media type"


class Forbidden(RequestError):
    """The request comes from where it may not come from, or asks for what is switched off."""

    status = 403
    title = "Forbidden"


class TooMany(RequestError):
    """One caller's share is used up, which is `limit`; `retry_after_s` says when to come again."""

    status = 429
    title = "Too many requests"

    def __init__(self, detail: str, *, retry_after_s: int, limit: int) -> None:
        super().__init__(detail, limit=limit)
        self.retry_after_s = retry_after_s


class UpstreamAway(RequestError):
    """The server behind the shield did not answer: nobody listens there, or what came is no answer."""

    status = 502
    title = "Upstream is away"


class UpstreamLocked(UpstreamAway):
    """The server behind the shield wants a password, and another one than is held, or none is."""


class UpstreamSlow(RequestError):
    """The server behind the shield did not answer in time."""

    status = 504
    title = "Upstream is slow"


class Busy(OpencodeEventsError):
    """A limit on simultaneous use is reached, or the daemon is closing; `retry_after_s` says when to come again."""

    def __init__(self, detail: str, *, retry_after_s: int, limit: int | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.limit = limit

    def __str__(self) -> str:
        return self.detail


class LogUnavailable(OpencodeEventsError):
    """The event log cannot take events now. Nothing of the refused append is stored."""

    def __init__(self, reason: str, *, retry_after_s: int = 1) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"the event log cannot be written: {self.reason}"


class DaemonError(OpencodeEventsError):
    """The daemon cannot start, or the one asked for is not there. `exit_code` is the command's."""

    def __init__(self, reason: str, *, exit_code: int = 1) -> None:
        super().__init__(reason)
        self.reason = reason
        self.exit_code = exit_code

    def __str__(self) -> str:
        return self.reason
