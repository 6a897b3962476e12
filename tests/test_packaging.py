"""What is written in more than one place about the package agrees: metadata, locks, version."""

import configparser
import re
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

import opencode_events

ROOT = Path(__file__).parent.parent
LOCKS = ("build", "dev", "runtime")


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def name_of(requirement: str) -> str:
    """Return a requirement's name as locks write it: `Foo_Bar[x]>=1` is foo-bar."""
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name is not None, requirement
    return re.sub(r"[-_.]+", "-", name[0]).lower()


def lock_text(lock: str) -> str:
    return (ROOT / "requirements" / f"{lock}.txt").read_text("utf-8")


def pins(lock: str) -> dict[str, str]:
    """Return the version by name."""
    return dict(re.findall(r"^([a-z0-9.-]+)==(\S+)", lock_text(lock), re.MULTILINE))


def test_the_installed_version_is_the_one_in_the_source() -> None:
    assert metadata.version("opencode-events") == opencode_events.__version__


def test_the_console_script_is_named_as_the_package() -> None:
    scripts = {entry.name: entry.value for entry in metadata.distribution("opencode-events").entry_points}

    assert scripts == {"opencode-events": "opencode_events.cli.main:main"}


def test_the_package_says_that_it_is_typed() -> None:
    assert Path(opencode_events.__file__).with_name("py.typed").is_file()
    assert "Typing :: Typed" in pyproject()["project"]["classifiers"]


def test_every_dependency_is_locked() -> None:
    project = pyproject()["project"]
    runtime, dev = project["dependencies"], project["optional-dependencies"]["dev"]

    assert {name_of(each) for each in runtime} <= pins("runtime").keys()
    assert {name_of(each) for each in runtime + dev} <= pins("dev").keys()
    assert {name_of(each) for each in pyproject()["build-system"]["requires"]} <= pins("build").keys()


def test_what_is_tested_is_what_is_run() -> None:
    runtime, dev = pins("runtime"), pins("dev")

    assert {name: dev.get(name) for name in runtime} == runtime


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_hashes_and_no_address(lock: str) -> None:
    """Where packages come from is the machine's setting; that they are the same ones is the lock's."""
    text = lock_text(lock)

    assert re.search(r"://|^-|^\s*--(?!hash)", text, re.MULTILINE) is None
    assert not [pin for pin in re.split(r"\n(?=[a-z])", text) if "==" in pin and "--hash=sha256:" not in pin]


def test_a_setting_lives_in_one_file() -> None:
    """pyproject.toml tells what the package is; setup.cfg how its files are found; [tool.setuptools] would be both."""
    cfg = configparser.ConfigParser()
    cfg.read(ROOT / "setup.cfg", "utf-8")
    project = pyproject()

    assert "setuptools" not in project["tool"]
    assert set(cfg["metadata"]) == set(project["project"]["dynamic"]) == {"version"}
    assert set(cfg.sections()) == {"metadata", "options", "options.packages.find", "options.package_data"}
    assert set(cfg["options"]) == {"packages", "include_package_data"}
