"""The settings of what the daemon says of itself: a group of `settings`, declared as the others are."""

import dataclasses

from opencode_events.declared import Checked, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoggingSettings(Checked):
    """What the daemon says of itself."""

    log_level: str = setting("info", "Lowest level that is written.", choices=("debug", "info", "warning", "error"))
    log_format: str = setting(
        "auto",
        "`console` for people, `json` for programs; `auto` is console on a terminal.",
        choices=("auto", "console", "json"),
    )
    log_file: str = setting("", "Write to this file, rotated at 10 MiB and kept 3 times, instead of standard output.")
    log_burst: int = setting(
        50, "Lines of one name in a second; more are counted and told in the next line that passes.", at_least=1
    )
