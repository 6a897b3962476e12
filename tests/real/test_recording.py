"""What goes in comes out: a recording of the shield beside one of the server behind it."""

from collections.abc import Callable

from tests.clients import Frame, Stream
from tests.real.opencode import Opencode
from tests.real.sdk import Sdk
from tests.servers import Daemon


def record(stream: Stream, last: str) -> list[Frame]:
    """Return the events up to the creation of session `last`, without control frames."""
    found: list[Frame] = []
    while not found or last not in found[-1].data.decode():
        frame = stream.frame()
        if not frame.is_control:
            found.append(frame)
    return found


def test_a_recording_of_an_agent_equals_one_taken_bare(
    sdk: Sdk, shield: Daemon, opencode: Opencode, new_sdk: Callable[..., Sdk]
) -> None:
    """Byte for byte, with tools, a permission, an abort and an error between them, and a second project."""
    other = opencode.home / "other"
    other.mkdir()
    targets = ("/global/event", f"/event?directory={opencode.project}", "/event")
    pairs = [(opencode.client.subscribe(target), shield.client.subscribe(target)) for target in targets]
    watcher = sdk.listen("global.event")
    elsewhere = new_sdk(shield.url, other)

    session = sdk.create("recorded \U0001f600 é")
    sdk.begin(session, "run seq 3", "write recorded.txt", "say 60")
    sdk.permit(session, watcher.until("permission.asked", sessionID=session)["properties"]["id"])
    elsewhere.prompt(elsewhere.create("of another project"), "write recorded.txt", "say 10")
    watcher.until("session.idle", sessionID=session)
    sdk.begin(session, "crawl")
    watcher.until("message.part.delta", 64, sessionID=session)
    sdk.call("session.abort", {"path": {"id": session}})
    watcher.until("session.error", sessionID=session)
    sdk.call("session.delete", {"path": {"id": session}})
    last = sdk.create("the last one")

    for bare, shielded in pairs:
        wanted = record(bare, last)
        found = record(shielded, last)
        assert len(wanted) > 100
        assert [frame.data for frame in found] == [frame.data for frame in wanted]
        assert len({frame.id for frame in found}) == len(found)
        assert None not in {frame.id for frame in found}
