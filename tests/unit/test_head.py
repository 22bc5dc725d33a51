"""Ray's head: how it keeps its state, how it is started again, how its absence is noticed."""

import asyncio
import base64
import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest

from cluster.config import load_config
from cluster.head import HeadKeeper, find_head, head_environment, storage_of
from cluster.ingress.head_watch import patience_s, watch_head
from cluster.ports import free_ports
from cluster.run_directory import RunDirectory
from galerne.errors import ConfigError

SLEEP = [shutil.which("sleep"), "60"]
ORPHANED = """
import shutil, subprocess, time, psutil
from cluster.head import HeadKeeper
first = subprocess.Popen([shutil.which("sleep"), "60"])
while not psutil.Process(first.pid).cmdline():  # about to run its program
    time.sleep(0.02)
HeadKeeper(psutil.Process(first.pid))
first.kill()
while True:
    new = [p for p in psutil.Process().children() if p.pid != first.pid and p.name() == "sleep"]
    if new:
        print(new[0].pid, flush=True)
        time.sleep(60)
    time.sleep(0.05)
"""


def wait_for(find, timeout=20.0):
    deadline = time.monotonic() + timeout
    while not (found := find()):
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.02)
    return found


def running(program):
    """A process of it, once it shows its arguments."""
    process = subprocess.Popen(program)
    wait_for(psutil.Process(process.pid).cmdline)
    return process


def command(*options, **settings):
    encoded = base64.b64encode(json.dumps(settings).encode()).decode()
    return ["/ray/gcs_server", f"--config_list={encoded}", "--session-name=one", *options]


@pytest.mark.parametrize(
    ("options", "settings", "environment", "kept_in"),
    [
        ((), {}, {}, "memory"),
        ((), {}, {"RAY_gcs_storage": "rocksdb"}, "rocksdb"),
        ((), {"gcs_storage": "rocksdb"}, {}, "rocksdb"),
        ((), {"gcs_storage": "memory"}, {"RAY_gcs_storage": "rocksdb"}, "memory"),
        (("--redis_address=10.0.0.1",), {}, {}, "redis"),
        (("--redis_address=",), {}, {"RAY_gcs_storage": "memory"}, "memory"),
    ],
)
def test_where_a_head_keeps_its_state_is_seen_from_how_it_was_started(
    options, settings, environment, kept_in
):
    assert storage_of(command(*options, **settings), environment) == kept_in


def test_our_own_head_keeps_its_state_where_it_is_told(tmp_path):
    assert storage_of(command(), head_environment(1, tmp_path)) == "rocksdb"
    assert storage_of(command(), head_environment(1, None)) == "memory"


def test_the_head_of_a_session_is_found_among_processes_of_which_some_may_not_be_seen():
    class Process:
        def __init__(self, line):
            self.line = line

        def cmdline(self):
            if self.line is None:
                raise psutil.AccessDenied
            return self.line

    other, ours = Process(["/ray/gcs_server", "--session-name=two"]), Process(command())
    processes = [Process([]), Process(None), Process(["python", "gcs_server"]), other, ours]
    assert find_head(processes, "one") is ours
    assert find_head(processes) is other
    assert find_head(processes, "three") is None


@pytest.mark.parametrize("has_pidfd", [True, False])
def test_a_head_that_dies_is_started_again_until_it_is_let_go(has_pidfd, monkeypatch):
    if not has_pidfd:  # as with an old kernel, or in some sandboxes

        def refuse(_pid):
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

        monkeypatch.setattr(os, "pidfd_open", refuse)
    first = running(SLEEP)
    keeper = HeadKeeper(psutil.Process(first.pid))
    known = {*psutil.Process().children()}

    def new():
        for process in psutil.Process().children():
            if process not in known and process.name() == "sleep" and process.cmdline():
                return process  # one that is about to run its program has no arguments yet
        return None

    try:
        first.kill()
        assert first.wait(60) == -signal.SIGKILL, "the keeper took what its owner waits for"
        second = wait_for(new)
        assert second.cmdline() == SLEEP
        known.add(second)
        second.kill()
        third = wait_for(new)
        known.add(third)
    finally:
        keeper.let_go()
        keeper.end()
    assert not third.is_running()
    time.sleep(0.3)
    assert new() is None


def test_a_head_that_cannot_be_started_at_once_is_later(monkeypatch):
    """As where a limit of processes has been met: nobody else would start it."""
    first, tries = running(SLEEP), []
    keeper = HeadKeeper(psutil.Process(first.pid))
    start = keeper._start

    def start_or_not():
        tries.append(time.monotonic())
        if len(tries) < 2:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        start()

    monkeypatch.setattr(keeper, "_start", start_or_not)
    try:
        first.kill()
        first.wait(60)
        wait_for(lambda: keeper._child is not None)
        assert keeper._child.poll() is None
    finally:
        keeper.let_go()
        keeper.end()


def test_a_head_that_was_started_again_does_not_outlive_us():
    us = subprocess.Popen([sys.executable, "-c", ORPHANED], stdout=subprocess.PIPE, text=True)
    with us:
        head = psutil.Process(int(us.stdout.readline()))
        us.kill()
        head.wait(20)  # alone it would run for longer


async def test_a_head_that_is_away_for_too_long_is_reported_once_and_its_return_too():
    port, told = free_ports(1)[0], []

    async def listen():
        return await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", port)

    async def until(count):
        async with asyncio.timeout(60):
            while len(told) < count:  # noqa: ASYNC110 - a list has no event
                await asyncio.sleep(0.01)

    head = await listen()
    watch = asyncio.create_task(watch_head(f"127.0.0.1:{port}", told.append, 1.5, 0.05))
    await asyncio.sleep(2.0)
    assert told == []
    head.close()
    await head.wait_closed()
    await until(1)
    assert "away for 1.5 s" in told[0]
    await asyncio.sleep(0.3)
    head = await listen()
    await until(2)
    assert told[1:] == [None]
    watch.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watch
    head.close()
    await head.wait_closed()


def test_streams_are_ended_before_ray_ends_us(monkeypatch):
    monkeypatch.delenv("RAY_gcs_rpc_server_reconnect_timeout_s", raising=False)
    assert patience_s() == 50
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "600")
    assert patience_s() == 500


def test_state_of_the_head_is_removed_with_the_run(tmp_path):
    with RunDirectory() as run:
        inside, elsewhere = run.make_storage(None), run.make_storage(tmp_path / "new")
        assert inside.parent == run.path
        assert elsewhere.parent == tmp_path / "new"
        assert elsewhere.stat().st_mode & 0o777 == 0o700
    assert not inside.exists()
    assert not elsewhere.exists()


def test_storage_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with RunDirectory() as run, pytest.raises(ConfigError, match="ray_storage="):
        run.make_storage(tmp_path / "file")


@pytest.mark.parametrize(("given", "kept"), [("off", True), ("/data/ray", False)])
def test_storage_is_a_directory_or_off(given, kept):
    assert (load_config(None, {"ray_storage": given}).ray_storage == "off") is kept
