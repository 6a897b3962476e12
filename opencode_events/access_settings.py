"""The settings of who may ask, and how much of it: a group of `settings`, declared as the others are."""

import dataclasses
import re

from opencode_events.declared import Checked, setting
from opencode_events.errors import SettingError

HOST_NAME = re.compile(r"[\w-]+(\.[\w-]+)*\.?", re.ASCII)
ORIGIN = re.compile(r"[A-Za-z][\w+.-]*://[^/?#@\s]+", re.ASCII)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AccessSettings(Checked):
    """Who may ask, how often, and when nobody new is served."""

    allowed_hosts: str = setting(
        "",
        "Further names (without port) by which requests may call this host, comma-separated; addresses and localhost "
        "always may. What another name brings may be a web page that had its name point here (DNS rebinding).",
    )
    cors_origins: str = setting(
        "", "Further origins (scheme://host[:port]) whose pages may subscribe, comma-separated; localhost always may."
    )
    tokens_file: str = setting(
        "",
        "TOML file of bearer tokens with what each is for, which nobody else may read. With it, everybody has to show "
        "one, or the password if there is one.",
    )
    token_publish_events_per_s: float = setting(
        5_000.0,
        "Events a second that one token may publish, in the long run; beyond it 429. A server's fastest flood has "
        "1 300. 0: no limit.",
        at_least=0,
    )
    peer_publish_events_per_s: float = setting(
        0.0,
        "The same for an address without a token. 0: no limit, for who has the password, or shares this machine, may "
        "do everything else too.",
        at_least=0,
    )
    max_head_bytes: int = setting(
        16 * 1024,
        "Bytes of a request's head: its first line and its fields, of which there may be 128. As much as Node takes. "
        "Beyond it 400, or 431.",
        at_least=1024,
    )
    max_rss_bytes: int = setting(
        0,
        "Bytes of memory that the process may have while somebody new is served; beyond it 503, and who is served "
        "already stays. 0: nine tenths of what its control group, or else the machine, has.",
        at_least=0,
    )

    def __post_init__(self) -> None:
        """Raise SettingError for a bad value, and for a name or an origin that no request could have."""
        super().__post_init__()
        for name in listed(self.allowed_hosts):
            if not HOST_NAME.fullmatch(name):
                raise SettingError("allowed_hosts", f"must be names of hosts, without a port, not {name!r}")
        for origin in listed(self.cors_origins):
            if not ORIGIN.fullmatch(origin):
                raise SettingError("cors_origins", f"must be origins, as https://example.org:8443, not {origin!r}")


def listed(text: str) -> list[str]:
    """Return what stands between commas."""
    return [part.strip() for part in text.split(",") if part.strip()]
