"""What a subscription asks for, and what is wrong with it when something is."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict, MultiDict

from opencode_events.broker.selection import Selection
from opencode_events.errors import InvalidFilter
from opencode_events.web.query import MAX_VALUES, read_directory, read_wish


def get(query: str = "", **headers: str) -> web.Request:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return make_mocked_request("GET", f"/event?{query}" if query else "/event", headers=fields)


def raw(header: str, value: str) -> web.BaseRequest:
    """Return a request with a header of any bytes, as aiohttp hands it on: what is not UTF-8 is escaped."""
    return cast(web.BaseRequest, SimpleNamespace(query=MultiDict[str](), headers=CIMultiDict({header: value})))


def selection(query: str, stream: Any = "global", **headers: str) -> Selection:
    return read_wish(get(query, **headers), stream).selection


def refused(query: str, stream: Any = "global", **headers: str) -> InvalidFilter:
    with pytest.raises(InvalidFilter) as found:
        read_wish(get(query, **headers), stream)
    return found.value


# --- defaults


def test_nothing_asked_for_is_everything_from_now_on() -> None:
    wish = read_wish(get(), "global")

    assert wish.selection == Selection(stream="global")
    assert (wish.end, wish.after) == ("clean", None)


def test_an_instance_is_named_by_its_directory() -> None:
    assert selection("directory=/srv/a", "instance") == Selection(stream="instance", directory="/srv/a")
    assert selection("directory=/srv/a").directory is None


def test_parameters_of_nobody_s_are_let_be() -> None:
    assert selection("x=1&_=2") == Selection(stream="global")


# --- the directory


@pytest.mark.parametrize(
    ("query", "header", "directory"),
    [
        ("directory=%2Fsrv%2Fa", None, "/srv/a"),
        ("", "/srv/a", "/srv/a"),
        ("", "%2Fsrv%2Fa%20b%C3%A9", "/srv/a bé"),
        ("", "/srv/a+b", "/srv/a+b"),
        ("directory=/srv/a+b", None, "/srv/a b"),
        ("directory=/srv/a", "/srv/b", "/srv/a"),
        ("directory=", "/srv/b", "/srv/b"),
        ("directory=/srv/a,b", None, "/srv/a,b"),
    ],
    ids=["query", "header", "encoded header", "a plus in a header", "a plus in a query", "the query wins",
         "an empty query", "a comma"],
)  # fmt: skip
def test_a_directory_is_in_the_query_or_in_the_header(query: str, header: str | None, directory: str) -> None:
    assert read_directory(get(query) if header is None else get(query, x_opencode_directory=header)) == directory


@pytest.mark.parametrize("query", ["", "directory=", "session=a"])
def test_without_a_directory_there_is_no_instance(query: str) -> None:
    assert refused(query, "instance").field == "directory"


@pytest.mark.parametrize("value", ["/srv/\udcff", "/srv/\udced\udca0\udc80"])
def test_a_directory_that_is_not_utf_8_is_refused(value: str) -> None:
    with pytest.raises(InvalidFilter) as found:
        read_directory(raw("x-opencode-directory", value))

    assert found.value.field == "directory"


# --- filters


@pytest.mark.parametrize(
    ("query", "values"),
    [
        ("a", {"a"}),
        ("a,b", {"a", "b"}),
        ("a&%s=b", {"a", "b"}),
        ("a,b&%s=c,a", {"a", "b", "c"}),
        ("%%20a%%20,%%20b", {"a", "b"}),
        ("a%%2Cb", {"a", "b"}),
    ],
    ids=["one", "a list", "repeated", "both", "with spaces", "an encoded comma"],
)
@pytest.mark.parametrize(
    ("name", "attribute"), [("session", "sessions"), ("types", "types"), ("workspace", "workspaces")]
)
def test_a_filter_s_values_are_separated_by_commas_or_repeated(
    query: str, values: set[str], name: str, attribute: str
) -> None:
    text = f"{name}={query % name if '%s' in query else query % ()}"

    assert getattr(selection(text), attribute) == values


@pytest.mark.parametrize("name", ["session", "types", "workspace"])
@pytest.mark.parametrize("value", ["", ",", "a,", ",a", "a,,b", "%20"])
def test_an_empty_value_is_refused(name: str, value: str) -> None:
    assert refused(f"{name}={value}").field == name


@pytest.mark.parametrize("name", ["session", "types", "workspace"])
def test_a_filter_has_a_limit_of_values(name: str) -> None:
    many = ",".join(map(str, range(MAX_VALUES)))
    assert selection(f"{name}={many}") != Selection(stream="global")

    error = refused(f"{name}={many},x")
    assert (error.field, error.limit) == (name, 256)


@pytest.mark.parametrize("sync", ["all", "none", "only"])
def test_sync_is_one_of_three(sync: str) -> None:
    assert selection(f"sync={sync}").sync == sync


def test_an_instance_stream_has_no_twins_to_give() -> None:
    assert selection("directory=/d&sync=all", "instance").sync == "all"
    assert selection("directory=/d&sync=none", "instance").sync == "none"
    assert refused("directory=/d&sync=only", "instance").field == "sync"


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("sync=yes", "sync"), ("sync=", "sync"), ("sync=ALL", "sync"), ("end=later", "end"), ("end=", "end"),
        ("on_overflow=drop", "on_overflow"), ("on_overflow=", "on_overflow"),
    ],
)  # fmt: skip
def test_what_is_not_on_offer_is_refused_by_its_name(query: str, field: str) -> None:
    assert refused(query).field == field


def test_a_long_bad_value_is_not_repeated_whole() -> None:
    assert len(str(refused(f"sync={'x' * 5000}"))) < 200


@pytest.mark.parametrize("end", ["clean", "abort"])
def test_the_end_is_asked_for(end: str) -> None:
    assert read_wish(get(f"end={end}&on_overflow=end"), "global").end == end


@pytest.mark.parametrize(
    ("query", "default", "found"),
    [
        ("", "end", "end"),
        ("", "catchup", "catchup"),
        ("on_overflow=end", "catchup", "end"),
        ("on_overflow=catchup", "end", "catchup"),
    ],
)
def test_what_happens_at_a_cap_is_asked_for_or_the_daemon_s_choice(query: str, default: str, found: str) -> None:
    assert read_wish(get(query), "global", default).on_overflow == found
    assert read_wish(get(query), "global").on_overflow == (found if query else "end")


# --- where to start


@pytest.mark.parametrize(
    ("query", "header", "after"),
    [
        ("", None, None),
        ("after=latest", None, None),
        ("after=", None, None),
        ("after=0123456789-7", None, "0123456789-7"),
        ("", "0123456789-7", "0123456789-7"),
        ("after=0123456789-7", "0123456789-9", "0123456789-9"),
        ("after=earliest", None, "earliest"),
        ("", "earliest", "earliest"),
        ("after=earliest", "0123456789-9", "0123456789-9"),
        ("after=0123456789-7", "", "0123456789-7"),
        ("after=nonsense", None, "nonsense"),
    ],
    ids=["nowhere", "latest", "empty", "query", "header", "the header wins", "earliest", "earliest in a header",
         "over earliest too", "an empty header", "not judged here"],
)  # fmt: skip
def test_a_reconnecting_client_s_header_wins_over_its_old_query(
    query: str, header: str | None, after: str | None
) -> None:
    request = get(query) if header is None else get(query, Last_Event_ID=header)

    assert read_wish(request, "global").after == after


def test_a_last_event_id_of_any_bytes_can_be_repeated_to_the_client() -> None:
    assert read_wish(raw("Last-Event-ID", "\udcff1"), "global").after == "?1"


# --- the format


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        (None, "sse"), ("text/event-stream", "sse"), ("*/*", "sse"), ("", "sse"), ("application/json", "sse"),
        ("application/x-ndjson", "ndjson"), ("Application/X-NDJSON; q=1", "ndjson"),
        ("text/html, application/x-ndjson;q=0.9, */*", "ndjson"),
    ],
)  # fmt: skip
def test_ndjson_is_asked_for_by_name(accept: str | None, form: str) -> None:
    assert selection("", **({} if accept is None else {"Accept": accept})).form == form
