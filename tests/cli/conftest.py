"""What the tests of the commands share: an environment without this machine's settings, and a runner."""

import os
from pathlib import Path

import pytest
from click.testing import CliRunner


@pytest.fixture(autouse=True)
def state_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An environment that names nothing but a state directory, which does not exist yet."""
    for name in os.environ:
        if name.startswith("OPENCODE_EVENTS_"):
            monkeypatch.delenv(name)
    path = tmp_path / "state"
    monkeypatch.setenv("OPENCODE_EVENTS_STATE_DIR", str(path))
    return path


@pytest.fixture
def runner() -> CliRunner:
    return CliRunner()
