"""What curl recorded becomes the lines that are published, and their numbers can be turned back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_events.cli.recording import Recording

SSE = b"""\
id: 3-1
retry: 1200
data: {"payload":{"type":"server.connected"}}

: comment
id: 3-2
event: message
data:{"payload":{"type":"a"}}

data: {"payload":{"type":"b"}}

"""


def read(text: bytes) -> bytes:
    recording = Recording()
    return recording.feed(text) + recording.finish()


def test_ndjson_passes_without_its_blank_lines() -> None:
    assert read(b'{"a":1}\n\n  \r\n{"b":2}\r\n') == b'{"a":1}\n{"b":2}\n'


def test_an_event_stream_is_stripped_to_its_data() -> None:
    assert read(SSE) == (
        b'{"payload":{"type":"server.connected"}}\n{"payload":{"type":"a"}}\n{"payload":{"type":"b"}}\n'
    )


def test_data_lines_without_blank_ones_between_are_events_of_their_own() -> None:
    assert read(b"data: {}\ndata: {}\n") == b"{}\n{}\n"


def test_what_is_neither_is_handed_on_for_the_daemon_to_judge() -> None:
    assert read(b"identity: x\nidea\n\xff\n") == b"identity: x\nidea\n\xff\n"


def test_a_last_line_without_its_end_is_an_event() -> None:
    assert read(b'{"a":1}\n{"b":2}') == b'{"a":1}\n{"b":2}\n'
    assert read(b"data: {}") == b"{}\n"
    assert read(b'data: {}\n\ndata: {"a":1}') == b'{}\n{"a":1}\n'


@pytest.mark.parametrize(
    ("rest", "is_cut"),
    [
        (b'data: {"payl', True),
        (b"dat", True),
        (b"data:", True),
        (b'data: "\xc3', True),
        (b"id: 3", False),
        (b"", False),
    ],
    ids=["in the data", "in the name", "before the data", "in a character", "in an id", "nowhere"],
)
def test_a_recording_cut_in_an_event_leaves_it_out_and_says_so(rest: bytes, is_cut: bool) -> None:
    recording = Recording()

    assert recording.feed(b"data: {}\n\n" + rest) + recording.finish() == b"{}\n"
    assert recording.cut_short == is_cut


def test_ndjson_cut_in_its_last_line_is_for_the_daemon_to_judge() -> None:
    recording = Recording()

    assert recording.feed(b'{}\n{"a') + recording.finish() == b'{}\n{"a\n'
    assert not recording.cut_short


def test_lines_are_found_again_in_the_file() -> None:
    recording = Recording()
    recording.feed(SSE)

    assert [recording.source_line(line) for line in (1, 2, 3)] == [3, 8, 10]


@pytest.mark.parametrize("line", [0, -1, 4], ids=["zero", "negative", "too large"])
def test_a_line_that_was_never_handed_on_keeps_its_number(line: int) -> None:
    recording = Recording()
    recording.feed(SSE)

    assert recording.source_line(line) == line


@given(st.lists(st.sampled_from([b'{"a":1}\n', b"data: {}\r\n", b"\n", b"id: 1\n", b"data: [", b":\n"])), st.data())
def test_where_a_recording_is_cut_into_pieces_makes_no_difference(parts: list[bytes], data: st.DataObject) -> None:
    text = b"".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))

    recording = Recording()
    found = b""
    for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        found += recording.feed(text[begin:end])
    found += recording.finish()

    assert found == read(text)
    assert found.count(b"\n") <= text.count(b"\n") + 1
