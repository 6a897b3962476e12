"""Settings are declared once; what cannot be used is refused by name, with where it came from."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_events import configuration, settings
from opencode_events.errors import SettingError
from opencode_events.settings import BrokerSettings, EventLogSettings, ServerSettings, Settings

SPECS = settings.specs()


def refusal(flags: dict[str, object] | None = None, env: dict[str, str] | None = None, file: Path | None = None) -> str:
    with pytest.raises(SettingError) as refused:
        configuration.load(flags, env or {}, file)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_every_setting_has_a_reason_and_a_name_of_its_own() -> None:
    fields = sum(len(dataclasses.fields(group)) for group in settings.GROUPS.values())

    assert len(SPECS) == fields, "two groups use one name"
    assert all(spec.reason.endswith(".") for spec in SPECS.values())


def test_names_are_made_from_the_field() -> None:
    spec = SPECS["max_event_bytes"]

    assert (spec.flag, spec.env) == ("--max-event-bytes", "OPENCODE_EVENTS_MAX_EVENT_BYTES")


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().server.port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: BrokerSettings(backlog_events=0), "backlog_events: must be at least 1, not 0"),
        (lambda: ServerSettings(port=65_536), "port: must be at most 65535, not 65536"),
        (lambda: EventLogSettings(durability="Full"), "durability: must be one of normal, full, not 'Full'"),
    ],
    ids=["too small", "too large", "not a choice"],
)
def test_a_group_refuses_what_is_out_of_bounds(make: Callable[[], object], says: str) -> None:
    with pytest.raises(SettingError) as refused:
        make()

    assert str(refused.value) == says


def test_every_default_can_be_typed_and_is_what_load_gives() -> None:
    loaded = configuration.load({}, {})

    for name, spec in SPECS.items():
        parsed = configuration.parse(
            spec, spec.default if isinstance(spec.default, bool) else str(spec.default), "test"
        )
        assert parsed == getattr(getattr(loaded, spec.group), name)


def test_flags_beat_the_environment_and_that_beats_the_file(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('port = 1\ndrain_s = 2\nhost = "file"\n')

    loaded = configuration.load(
        {"port": "3", "host": None}, {"OPENCODE_EVENTS_PORT": "2", "OPENCODE_EVENTS_HOST": "env"}, file
    )

    assert (loaded.server.port, loaded.server.host, loaded.server.drain_s) == (3, "env", 2.0)


def test_what_was_chosen_is_known_with_where_it_came_from(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("port = 1\ndrain_s = 2\n")

    chosen = configuration.gather({"port": "3", "host": None}, {"OPENCODE_EVENTS_UVLOOP": "no", "HOME": "/"}, file)

    assert chosen == {
        "port": ("3", "--port"),
        "drain_s": (2, str(file)),
        "uvloop": ("no", "OPENCODE_EVENTS_UVLOOP"),
    }


def test_the_command_lines_own_variables_are_no_settings() -> None:
    env = {"OPENCODE_EVENTS_CONFIG": "c.toml", "OPENCODE_EVENTS_URL": "http://127.0.0.1:1"}

    assert not configuration.NOT_SETTINGS & SPECS.keys()
    assert configuration.load({}, env) == configuration.load({}, {})


def test_a_setting_that_is_none_is_refused_with_where_it_stands(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("prot = 1\n")

    assert refusal(file=file) == f"prot ({file}): is not a setting"
    assert refusal(env={"OPENCODE_EVENTS_PROT": "1"}) == "prot (OPENCODE_EVENTS_PROT): is not a setting"
    assert refusal(flags={"prot": "1"}) == "prot (--prot): is not a setting"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"port = \n", "cannot be read: Invalid value"),
        (b"host = '\xff'\n", "cannot be read: 'utf-8' codec"),
        (b"[server]\nport = 1\n", "server ("),
    ],
    ids=["no TOML", "no UTF-8", "not flat"],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, text: bytes, says: str) -> None:
    file = tmp_path / "c.toml"
    file.write_bytes(text)

    assert says in refusal(file=file)
    assert str(file) in refusal(file=file)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert refusal(file=tmp_path / "absent").startswith(f"config ({tmp_path / 'absent'}): cannot be read: ")
    assert "Is a directory" in refusal(file=tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("port", "-1", "must be at least 0, not -1"),
        ("allowed_hosts", "a, b:80", "must be names of hosts, without a port, not 'b:80'"),
        ("allowed_hosts", "http://a", "must be names of hosts, without a port, not 'http://a'"),
        ("cors_origins", "example.org", "must be origins, as https://example.org:8443, not 'example.org'"),
        ("cors_origins", "https://a, https://b/", "must be origins, as https://example.org:8443, not 'https://b/'"),
        ("port", "65536", "must be at most 65535, not 65536"),
        ("port", "4096.0", "expects a whole number, not '4096.0'"),
        ("port", 1.5, "expects a whole number, not 1.5"),
        ("port", True, "expects a number, not True"),
        ("port", [1], "expects a number, not [1]"),
        ("port", math.inf, "expects a whole number, not inf"),
        ("port", math.nan, "expects a whole number, not nan"),
        ("port", "", "expects a whole number, not ''"),
        ("backlog_events", "0", "must be at least 1, not 0"),
        ("heartbeat_s", "0", "must be at least 0.01, not 0.0"),
        ("drain_s", math.nan, "expects a finite number, not nan"),
        ("drain_s", "nan", "expects a finite number, not 'nan'"),
        ("drain_s", "inf", "expects a finite number, not 'inf'"),
        ("drain_s", "5s", "expects a finite number, not '5s'"),
        ("takeover", "maybe", "expects true or false, not 'maybe'"),
        ("takeover", 1, "expects true or false, not 1"),
        ("host", 1, "expects text, not 1"),
        ("host", "a\0b", "expects text, not 'a\\x00b'"),
        ("state_dir", "", "expects a path, not ''"),
        ("state_dir", "~no-such-user/x", "Could not determine home directory. (in '~no-such-user/x')"),
        ("durability", "Full", "must be one of normal, full, not 'Full'"),
    ],
)
def test_a_bad_value_is_refused(name: str, value: object, says: str) -> None:
    assert refusal({name: value}) == f"{name} (--{name.replace('_', '-')}): {says}"


@pytest.mark.parametrize("name", ["port", "drain_s"])
def test_a_number_too_large_to_hold_is_refused(name: str) -> None:
    assert "number" in refusal({name: 10**400})


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("port", "0", 0),
        ("port", "65535", 65_535),
        ("port", 4096.0, 4096),
        ("budget_bytes", "9007199254740993", 9_007_199_254_740_993),
        ("backlog_events", "1", 1),
        ("drain_s", 3, 3.0),
        ("drain_s", "0", 0.0),
        ("takeover", " Off ", False),
        ("takeover", "1", True),
        ("takeover", False, False),
        ("log_file", "", ""),
    ],
)
def test_a_value_at_the_edge_is_taken(name: str, value: object, expected: object) -> None:
    loaded = configuration.load({name: value}, {})

    found = getattr(getattr(loaded, SPECS[name].group), name)
    assert found == expected
    assert type(found) is type(expected)


def test_home_is_put_in_for_the_tilde(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))

    assert configuration.load({}, {}).server.state_dir == tmp_path / ".local/state/opencode-events"
    assert configuration.load({"state_dir": "~/x"}, {}).server.state_dir == tmp_path / "x"


def test_without_a_home_a_state_directory_that_was_given_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home(path: Path) -> Path:
        if str(path).startswith("~"):
            raise RuntimeError("Could not determine home directory.")
        return path

    monkeypatch.setattr(Path, "expanduser", no_home)

    assert configuration.load({"state_dir": "/var/lib/x"}, {}).server.state_dir == Path("/var/lib/x")
    assert "state_dir (the default)" in refusal()


@given(st.sampled_from(sorted(SPECS)), st.one_of(st.text(), st.integers(), st.floats(), st.booleans(), st.none()))
def test_whatever_is_given_is_taken_or_refused_by_name(name: str, value: object) -> None:
    refused_for = None
    try:
        configuration.load({name: value}, {})
    except SettingError as error:
        refused_for = error.name

    assert refused_for in (None, name)


# --- what depends on an upstream


@pytest.mark.parametrize(
    ("upstream", "expected"), [("", ("end", "oldest")), ("http://127.0.0.1:4096", ("catchup", "head"))]
)
def test_what_is_left_to_decide_depends_on_the_server_behind(upstream: str, expected: tuple[str, str]) -> None:
    broker = configuration.decided(configuration.load({"upstream": upstream}, {})).broker

    assert (broker.on_overflow, broker.on_expired) == expected


def test_what_was_chosen_is_not_decided_again() -> None:
    flags = {"upstream": "http://127.0.0.1:4096", "on_overflow": "end", "on_expired": "oldest"}
    broker = configuration.decided(configuration.load(flags, {})).broker

    assert (broker.on_overflow, broker.on_expired) == ("end", "oldest")


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:4096",
        "ftp://h",
        "http://",
        "http://h/path",
        "http://u:p@h",
        "http://h?x=1",
        "http://h:0",
        "http://h:x",
        "http://h:",
        "http://a b",
        "http://a..b",
        "http://a%20b",
        "http://a<b>",
        "http://*",
        "http://a\\b",
        f"http://{'x' * 64}.org",
        "http://[::g]",
        "http://h\n",
    ],
)
def test_an_upstream_is_a_server_and_nothing_more(url: str) -> None:
    with pytest.raises(SettingError) as caught:
        configuration.load({"upstream": url}, {})

    assert caught.value.name == "upstream"
    assert repr(url) in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:4096",
        "http://localhost:4096/",
        "https://[::1]",
        "http://[fe80::1%25eth0]:4096",
        "http://h",
        "http://my_host.example.org.",
        "http://b\u00fccher.example",
    ],
)
def test_an_upstream_may_be_any_server(url: str) -> None:
    assert configuration.load({"upstream": url}, {}).relay.upstream == url
