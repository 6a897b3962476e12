"""A real `opencode serve`, with a home of its own and the stub for its model, that can be killed and started again.

Everything it would load from elsewhere is switched off. It keeps its port for life, so that whoever talks to it finds
it again. Its process hides its arguments; it is known by its pid.
"""

import base64
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from tests.clients import Answer, Client, until
from tests.real.node import PATIENCE_S
from tests.real.stub import Stub
from tests.servers import free_port

BINARY = Path(__file__).with_name("node_modules") / "opencode-linux-x64-baseline" / "bin" / "opencode"
# What opencode would do on its own, and with which switch it does not.
SWITCHES = ("MODELS_FETCH", "AUTOUPDATE", "LSP_DOWNLOAD", "DEFAULT_PLUGINS", "SHARE")


def environment(home: Path) -> dict[str, str]:
    """Return what a process of opencode's is started with: nothing of this machine but where programs are."""
    folders = {f"XDG_{name}_HOME": str(home / name.lower()) for name in ("DATA", "CONFIG", "CACHE", "STATE")}
    switches = {f"OPENCODE_DISABLE_{name}": "1" for name in SWITCHES}
    return {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": str(home), "SHELL": "/bin/sh"} | folders | switches


def configuration(model_url: str) -> dict[str, Any]:
    """Return opencode.json: the stub is its only model; `bash` needs a permission, `write` does not."""
    stub = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "stub",
        "options": {"baseURL": model_url, "apiKey": "none"},
        "models": {"m1": {"name": "m1", "tool_call": True, "limit": {"context": 100_000, "output": 4000}}},
    }
    return {
        "model": "stub/m1",
        "small_model": "stub/m1",
        "enabled_providers": ["stub"],
        "provider": {"stub": stub},
        "permission": {"edit": "allow", "bash": "ask"},
    }


class Opencode:
    """The server, in `home`. With a `password` it answers nobody who does not know it."""

    def __init__(self, home: Path, stub: Stub, *, password: str = "") -> None:
        self.home = home
        self.password = password
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = Client(self.url)
        self.project = home / "project"
        self.project.mkdir(parents=True)
        subprocess.run(["git", "init", "--quiet", str(self.project)], check=True)
        settings = home / "config" / "opencode" / "opencode.json"
        settings.parent.mkdir(parents=True)
        settings.write_text(json.dumps(configuration(stub.url)))
        self._output = home / "serve.out"
        self._process: subprocess.Popen[bytes] | None = None
        self._begun = 0

    def start(self) -> None:
        """Start it, and wait until it answers."""
        variables = environment(self.home)
        if self.password:
            variables["OPENCODE_SERVER_PASSWORD"] = self.password
        command = [str(BINARY), "serve", "--hostname", "127.0.0.1", "--port", str(self.port)]
        with self._output.open("ab") as output:
            self._begun = output.tell()
            self._process = subprocess.Popen(
                command, cwd=self.project, env=variables, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        until(self._is_listening, timeout_s=PATIENCE_S)
        assert self.get("/global/health").status == 200

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The one that was started last."""
        assert self._process is not None
        return self._process

    def _is_listening(self) -> bool:
        """Whether it says so: a request that comes as soon as its port is open may never be answered."""
        assert self.process.poll() is None, self.output()
        return f"listening on {self.url}\n" in self.output()[self._begun :]

    def get(self, target: str) -> Answer:
        return self.client.send("GET", target, None, **self.credentials)

    @property
    def credentials(self) -> dict[str, str]:
        """The header that it lets in."""
        if not self.password:
            return {}
        return {"Authorization": "Basic " + base64.b64encode(f"opencode:{self.password}".encode()).decode()}

    def kill(self) -> None:
        """End it without a warning."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """End it for good, whether it ever began or not."""
        self.client.close()
        if self._process is not None:
            self.kill()

    def output(self) -> str:
        """Return what it wrote to its terminal."""
        return self._output.read_text("utf-8", "replace")

    def log(self) -> str:
        """Return what it has logged."""
        files = sorted((self.home / "data" / "opencode" / "log").glob("*.log"))
        return "".join(file.read_text("utf-8", "replace") for file in files)

    def cpu_s(self) -> float:
        """Return the seconds of CPU that it has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_kib(self) -> int:
        """Return the memory that it has, in KiB."""
        (line,) = (
            line
            for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
            if line.startswith("VmRSS:")
        )
        return int(line.split()[1])
