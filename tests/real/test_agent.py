"""opencode's SDK drives an agent through the shield, and its streams tell what happens."""

from collections.abc import Callable

import pytest

from tests.real.audit import assert_whole, events, key
from tests.real.opencode import Opencode
from tests.real.sdk import Listening, Sdk
from tests.servers import Daemon


@pytest.fixture
def watching(new_sdk: Callable[..., Sdk], shield: Daemon) -> list[Listening]:
    """The global stream and that of the project, by both interfaces of the SDK: one has the directory in a header."""
    first, second = new_sdk(shield.url), new_sdk(shield.url, surface="v2")
    return [
        first.listen("global.event"),
        first.listen("event.subscribe"),
        second.listen("global.event"),
        second.listen("event.subscribe", {}),
    ]


def test_a_prompt_streams_its_answer(sdk: Sdk, watching: list[Listening], opencode: Opencode) -> None:
    session = sdk.create("streams")

    answer = sdk.prompt(session, "say 40")

    text = "".join(f"word{number} " for number in range(40)) + "Done."
    assert [part["text"] for part in answer["parts"] if part["type"] == "text"] == [text]
    for stream in watching:
        stream.until("session.idle", sessionID=session)
        deltas = stream.of("message.part.delta", sessionID=session)
        assert "".join(each["properties"]["delta"] for each in deltas) == text
        assert len(deltas) > 20
        assert stream.troubles == []
    assert_whole(watching[0].payloads, opencode, session)


def test_a_tool_waits_for_its_permission(sdk: Sdk, watching: list[Listening], opencode: Opencode) -> None:
    session = sdk.create("asks")

    sdk.begin(session, "run echo from the shell", "write notes.txt", "say 3")
    asked = watching[1].until("permission.asked", sessionID=session)
    sdk.permit(session, asked["properties"]["id"])

    for stream in watching:
        stream.until("session.idle", sessionID=session)
        assert stream.until("permission.replied", sessionID=session)["properties"]["reply"] == "once"
        parts = [each["properties"]["part"] for each in stream.of("message.part.updated", sessionID=session)]
        done = [part for part in parts if part["type"] == "tool" and part["state"]["status"] == "completed"]
        assert [part["tool"] for part in done] == ["bash", "write"]
        assert done[0]["state"]["output"] == "from the shell\n"
    assert (opencode.project / "notes.txt").read_text() == "one\ntwo — zwei\nthree\n"
    assert_whole(watching[0].payloads, opencode, session)


def test_an_answer_can_be_cut_short(sdk: Sdk, watching: list[Listening]) -> None:
    session = sdk.create("crawls")

    sdk.begin(session, "crawl")
    watching[0].until("message.part.delta", 3, sessionID=session)
    sdk.call("session.abort", {"path": {"id": session}})

    for stream in watching:
        error = stream.until("session.error", sessionID=session)["properties"]["error"]
        assert error["name"] == "MessageAbortedError"
        stream.until("session.idle", sessionID=session)


def test_a_model_that_fails_is_told_of(sdk: Sdk, watching: list[Listening]) -> None:
    session = sdk.create("fails")

    sdk.begin(session, "fail")

    for stream in watching:
        error = stream.until("session.error", sessionID=session)["properties"]["error"]
        assert "the stub was told to fail" in error["data"]["message"]


def test_the_streams_agree(sdk: Sdk, watching: list[Listening], opencode: Opencode) -> None:
    """The stream of a project is the global one without what is of other directories, and without the twins."""
    session = sdk.create("agrees")
    sdk.prompt(session, "write agreed.txt", "say 10")
    last = sdk.create("the last one")
    for stream in watching:
        stream.until("session.created", sessionID=last)

    everything, own, everything_again, own_again = (events(stream.payloads) for stream in watching)
    wanted = [
        each["payload"]
        for each in watching[0].envelopes
        if each.get("directory") == str(opencode.project) and each["payload"]["type"] != "sync"
    ]
    assert own == own_again == wanted
    assert everything == everything_again
    assert len({key(each) for each in everything}) == len(everything)
