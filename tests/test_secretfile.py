"""Who else may look into a file of secrets, and what systemd's credentials look like."""

import errno
import os
import struct
from pathlib import Path

import pytest

from opencode_events import secretfile
from opencode_events.errors import SettingError

# linux/posix_acl.h: tags of entries, and the identifier of those that need none.
USER_OBJ, USER, GROUP_OBJ, MASK, OTHER = 0x01, 0x02, 0x04, 0x10, 0x20
NOBODY_SPECIAL = 0xFFFF_FFFF
READ = 4


def read(path: Path) -> str:
    return secretfile.read(path, "a_setting", at_most=100, what="that is no secret")


def let_read(path: Path, user: int) -> None:
    """Let one more user read a file that is its owner's alone, as systemd does for the user of a service.

    Where the file system has no access lists, the mode alone shows what theirs would.
    """
    entries = [
        (USER_OBJ, READ, NOBODY_SPECIAL), (USER, READ, user), (GROUP_OBJ, 0, NOBODY_SPECIAL),
        (MASK, READ, NOBODY_SPECIAL), (OTHER, 0, NOBODY_SPECIAL),
    ]  # fmt: skip
    access_list = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    try:
        os.setxattr(path, "system.posix_acl_access", access_list)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        path.chmod(0o440)


@pytest.fixture
def credential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in the directory that systemd names."""
    directory = tmp_path / "credentials"
    directory.mkdir(0o500)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(directory))
    file = directory / "password"
    file.write_text("secret")
    return file


def test_a_credential_of_systemd_is_read_though_its_access_list_shows_as_a_group(credential: Path) -> None:
    credential.chmod(0o400)
    let_read(credential, 1)
    assert credential.stat().st_mode & 0o777 == 0o440

    assert read(credential) == "secret"


def test_a_link_to_one_is_read_too(credential: Path, tmp_path: Path) -> None:
    credential.chmod(0o440)
    (tmp_path / "link").symlink_to(credential)

    assert read(tmp_path / "link") == "secret"


@pytest.mark.parametrize("mode", [0o444, 0o404, 0o642])
def test_one_that_everybody_may_read_is_refused_there_too(credential: Path, mode: int) -> None:
    credential.chmod(mode)

    with pytest.raises(SettingError, match="open to others"):
        read(credential)


@pytest.mark.parametrize("directory", ["", "/", "relative", "{path}/other"])
def test_a_group_that_may_read_another_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, directory: str
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", directory.format(path=tmp_path))
    file = tmp_path / "password"
    file.write_text("secret")
    file.chmod(0o640)

    with pytest.raises(SettingError, match="chmod 600"):
        read(file)


def test_a_pipe_is_read_and_one_that_nobody_writes_into_is_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert read(pipe) == ""

    reader, writer = os.pipe()
    os.write(writer, b"secret")
    os.close(writer)
    try:
        assert read(Path(f"/dev/fd/{reader}")) == "secret"
    finally:
        os.close(reader)
