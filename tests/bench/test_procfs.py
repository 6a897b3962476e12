import os
from pathlib import Path

import pytest

from opencode_events.bench.procfs import Process, cpu_ticks, resident_bytes

STAT = "42 (a) b (c)) S 1 42 42 0 -1 4194560 1193 0 5 0 250 75 0 0 20 0 2 0 8081 1 1 1"


def test_cpu_time_is_found_behind_a_command_with_brackets_and_spaces() -> None:
    assert cpu_ticks(STAT) == 325


def test_resident_memory_is_told_in_bytes() -> None:
    assert resident_bytes("Name:\tx\nVmHWM:\t 900 kB\nVmRSS:\t   512 kB\n") == 512 * 1024


def test_a_process_without_memory_of_its_own_has_no_resident_memory() -> None:
    with pytest.raises(ValueError):
        resident_bytes("Name:\tkthreadd\nState:\tS (sleeping)\n")


def test_the_files_of_a_process_are_read(tmp_path: Path) -> None:
    (tmp_path / "42").mkdir()
    (tmp_path / "42" / "stat").write_text(STAT)
    (tmp_path / "42" / "status").write_text("VmRSS:\t512 kB\n")
    process = Process(42, tmp_path)

    assert process.cpu_s() == 325 / os.sysconf("SC_CLK_TCK")
    assert process.rss_bytes() == 512 * 1024


@pytest.mark.parametrize("pid", [None, 4_194_999], ids=["unknown", "gone"])
def test_a_process_that_cannot_be_seen_costs_none(pid: int | None) -> None:
    process = Process(pid)

    assert process.cpu_s() is None
    assert process.rss_bytes() is None


def test_the_fine_clock_agrees_with_the_ticks() -> None:
    ticks_s = cpu_ticks(Path("/proc/self/stat").read_text()) / os.sysconf("SC_CLK_TCK")

    assert Process(os.getpid()).cpu_s() == pytest.approx(ticks_s, abs=0.1)
