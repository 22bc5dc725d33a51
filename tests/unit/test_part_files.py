"""Files that tell a node's probe which parts are here."""

import stat
import subprocess
import sys
from dataclasses import replace

import psutil

from cluster.part_files import (
    of_this_process,
    read_part_files,
    started_since_boot_s,
    write_part_file,
)
from helpers.waiting import wait_until

OURS = of_this_process("galerne-1", "shard-0", "127.0.0.1:7000", None)


def test_what_was_written_is_read_and_runs(tmp_path):
    tls = {"cert": "c", "key": "k", "ca": "a", "name": "n"}
    other = replace(OURS, part="gateway-0", tls=tls)
    write_part_file(tmp_path, OURS)
    write_part_file(tmp_path, other)
    assert read_part_files(tmp_path) == [other, OURS]
    assert OURS.is_running
    [directory] = tmp_path.iterdir()
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_a_session_without_parts_has_none(tmp_path):
    assert read_part_files(tmp_path) == []


def test_a_part_started_again_replaces_its_file_and_sweeps_those_of_the_dead(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started_s = started_since_boot_s(child.pid)
    dead = replace(OURS, part="shard-1", pid=child.pid, started_s=started_s)
    write_part_file(tmp_path, dead)
    assert dead.is_running
    child.kill()
    zombie = psutil.STATUS_ZOMBIE  # until its parent has asked for its end
    wait_until(lambda: psutil.Process(child.pid).status() == zombie)
    assert not dead.is_running
    child.communicate()
    write_part_file(tmp_path, replace(OURS, address="127.0.0.1:7001"))
    write_part_file(tmp_path, OURS)
    assert read_part_files(tmp_path) == [OURS]


def test_a_pid_that_came_again_is_another_process():
    assert not replace(OURS, started_s=OURS.started_s - 60.0).is_running


def test_a_part_still_runs_when_somebody_sets_the_clock(tmp_path, monkeypatch):
    """As NTP does soon after a machine's boot, which then seems to have been at another time."""
    write_part_file(tmp_path, OURS)
    boot_s = psutil.boot_time()
    monkeypatch.setattr(psutil._psplatform, "boot_time", lambda: boot_s + 30.0)
    assert OURS.is_running
    write_part_file(tmp_path, replace(OURS, part="shard-1"))
    assert {told.part for told in read_part_files(tmp_path)} == {"shard-0", "shard-1"}


def test_a_file_of_something_else_is_passed_over(tmp_path):
    write_part_file(tmp_path, OURS)
    [directory] = tmp_path.iterdir()
    for name, text in (("a.json", "{"), ("b.json", "[1]"), ("c.json", '{"part": "x"}')):
        (directory / name).write_text(text)
    assert read_part_files(tmp_path) == [OURS]


def test_a_directory_that_cannot_be_written_stops_nothing(tmp_path):
    write_part_file(tmp_path / "missing", OURS)
    assert read_part_files(tmp_path / "missing") == []
