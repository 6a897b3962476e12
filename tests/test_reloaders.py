"""A reload is all or nothing, and what it cannot change it names."""

from collections.abc import Mapping

import pytest

from opencode_events import configuration
from opencode_events.errors import SettingError
from opencode_events.reloaders import Commit, Outcome, Reloaders
from opencode_events.settings import Settings


class Chosen:
    """Settings that change between two looks at them, and what a part was given of them."""

    def __init__(self, **values: object) -> None:
        self.values: dict[str, object] = dict(values)
        self.given: list[str] = []

    def __call__(self) -> Settings:
        return configuration.build({name: (value, "file") for name, value in self.values.items()})

    def takes(self, new: Settings) -> Commit:
        return lambda: self.given.append(new.logging.log_level)


def reloaders(chosen: Chosen) -> Reloaders:
    return Reloaders(chosen(), chosen)


def change(chosen: Chosen, values: Mapping[str, object]) -> None:
    chosen.values = dict(values)


def test_what_a_part_claims_changes_and_the_rest_waits_for_a_restart() -> None:
    chosen = Chosen(log_level="info", port=1)
    known = reloaders(chosen)
    known.add(("log_level",), chosen.takes)
    change(chosen, {"log_level": "debug", "port": 2, "drain_s": 9})

    assert known.reload() == Outcome(changed=("log_level",), kept=("port", "drain_s"))
    assert chosen.given == ["debug"]
    assert (known.settings.logging.log_level, known.settings.server.port) == ("debug", 1)
    assert known.reload() == Outcome(changed=(), kept=("port", "drain_s"))
    change(chosen, {"log_level": "debug", "port": 1})
    assert known.reload() == Outcome(changed=(), kept=())


def test_files_are_read_again_though_no_setting_has_changed() -> None:
    chosen = Chosen()
    known = reloaders(chosen)
    known.add(("tls_cert", "tls_key"), chosen.takes)

    known.reload()
    known.reload()

    assert chosen.given == ["info", "info"]


def test_a_bad_value_changes_nothing() -> None:
    chosen = Chosen(log_level="info")
    known = reloaders(chosen)
    known.add(("log_level",), chosen.takes)
    change(chosen, {"log_level": "debug", "port": "many"})

    with pytest.raises(SettingError, match="port"):
        known.reload()
    assert chosen.given == []
    assert known.settings.logging.log_level == "info"


def test_one_part_that_refuses_stops_all_of_them() -> None:
    chosen = Chosen(log_level="info")
    known = reloaders(chosen)

    def refuses(new: Settings) -> Commit:
        raise SettingError("tls_cert", "is no certificate")

    known.add(("log_level",), chosen.takes)
    known.add(("tls_cert",), refuses)
    change(chosen, {"log_level": "debug"})

    with pytest.raises(SettingError, match="is no certificate"):
        known.reload()
    assert chosen.given == []
    assert known.settings.logging.log_level == "info"


def test_a_part_may_leave_a_change_to_a_restart() -> None:
    chosen = Chosen()
    known = reloaders(chosen)
    known.add(("tls_cert",), lambda new: None)
    change(chosen, {"tls_cert": "new.pem"})

    assert known.reload() == Outcome(changed=(), kept=("tls_cert",))
    assert known.settings.server.tls_cert == ""


def test_what_is_claimed_can_be_asked_for() -> None:
    known = reloaders(Chosen())
    known.add(("log_level", "drain_s"), lambda new: None)
    known.add(("drain_s",), lambda new: None)

    assert known.names == ("drain_s", "log_level")
