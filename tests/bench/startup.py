"""``make bench-startup``: how long ``galerne serve`` takes, and what its processes hold when idle.

    python -m tests.bench.startup [--repeat 3] [--idle-s 10] [--json FILE] [-- FLAGS OF SERVE]

From the start of the command: each step that it says, each process that appears, "ready", the first
token over gRPC. Then, after some idle seconds, of each process: proportional set size (a page that
n processes map counts 1/n of it in each), how much of it is pages of files (programs, the mapped
checkpoint: the kernel takes them back when others need memory), CPU seconds so far, and CPU while
idle. Medians of runs.
"""

import argparse
import json
import os
import re
import select
import signal
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from helpers.serve_process import READY
from tests.bench.served import Client

_WATCH_S = 0.05
_TIMEOUT_S = 300.0
_STEPS = re.compile(r"^(starting|loading|joining|measuring)\b.*", re.MULTILINE)


@dataclass
class Held:
    """One process, or all of a name."""

    pss_mib: float
    file_mib: float  # of these: pages of files
    cpu_s: float  # since its start
    idle_cpu: float  # cores, while nothing was asked


@dataclass
class Run:
    """One start. Seconds from the start of the command."""

    steps_s: dict = field(default_factory=dict)
    processes_s: dict = field(default_factory=dict)  # when the first of a name appeared
    ready_s: float = 0.0
    first_token_s: float = 0.0
    cpu_s: float = 0.0  # of all processes, until ready
    held: dict = field(default_factory=dict)  # by name


def name_of(process):
    """What a process is, in a word."""
    command = process.cmdline()
    if not command:
        return process.name()
    if command[0].startswith("ray::"):
        return command[0].split(":")[2].split(".")[0].split(" ")[0]
    for argument in command[:4]:
        stem = Path(argument).name
        if stem in ("galerne", "gcs_server", "raylet", "haproxy", "sleep"):
            return "galerne serve" if stem == "galerne" else stem
        if stem.endswith(".py"):
            is_main = stem == "main.py"
            return f"{Path(argument).parent.parent.name} agent" if is_main else stem[:-3]
    return Path(command[0]).name


class Watch:
    """Sees processes come, by looking."""

    def __init__(self, pid, run):
        self._root = psutil.Process(pid)
        self._run = run
        self.began_unix_s = self._root.create_time()

    def look(self):
        for process in self.family():
            try:
                at_s = process.create_time() - self.began_unix_s
                self._run.processes_s.setdefault(name_of(process), round(at_s, 2))
            except psutil.Error:
                continue

    def family(self):
        return [self._root, *self._root.children(recursive=True)]

    def cpu_s(self):
        """Of all processes that live."""
        return sum(_cpu_of(process) for process in self.family())

    def held(self, idle_s):
        """Every process after so many idle seconds, added up by name."""
        before = {process.pid: _cpu_of(process) for process in self.family()}
        time.sleep(idle_s)
        found = defaultdict(lambda: Held(0.0, 0.0, 0.0, 0.0))
        for process in self.family():
            try:
                memory, now_s = _memory_of(process.pid), _cpu_of(process)
                one = found[name_of(process)]
            except (psutil.Error, OSError):
                continue
            one.pss_mib += memory["Pss"]
            one.file_mib += memory["Pss_File"]
            one.cpu_s += now_s
            one.idle_cpu += (now_s - before.get(process.pid, now_s)) / idle_s
        return dict(found)


def _memory_of(pid):
    """MiB by the names of /proc/PID/smaps_rollup."""
    _, *lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    counts = (line.split() for line in lines)
    return {name.rstrip(":"): int(number) / 1024 for name, number, _ in counts}


def _cpu_of(process):
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return times.user + times.system


def measure(flags, idle_s):
    """One start and its end."""
    command = [str(Path(sys.executable).parent / "galerne"), "serve", *flags]
    process = subprocess.Popen(
        [*command, "--http-port", "0", "--grpc-port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        return _follow(process, idle_s)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
        process.stdout.close()


def _follow(process, idle_s):
    run, output = Run(), ""
    watch = Watch(process.pid, run)
    while (ready := READY.search(output)) is None:
        readable, _, _ = select.select([process.stdout], [], [], _WATCH_S)
        watch.look()
        since_s = time.time() - watch.began_unix_s
        if readable:
            chunk = os.read(process.stdout.fileno(), 65536).decode()
            if not chunk or since_s > _TIMEOUT_S:
                raise SystemExit(f"not ready after {since_s:.0f} s:\n{output}")
            output += chunk
            for step in _STEPS.findall(chunk):
                run.steps_s.setdefault(step, round(since_s, 2))
    run.ready_s, run.cpu_s = time.time() - watch.began_unix_s, watch.cpu_s()
    client = Client(ready.group(3))
    client.stream(0, 1)
    run.first_token_s = time.time() - watch.began_unix_s
    client.close()
    run.held = watch.held(idle_s)
    return run


def median_of(runs, value):
    return statistics.median(value(run) for run in runs)


def report(runs):
    """Lines of a table."""
    yield f"ready {median_of(runs, lambda r: r.ready_s):.1f} s"
    yield f"first token {median_of(runs, lambda r: r.first_token_s):.1f} s"
    yield f"CPU until ready {median_of(runs, lambda r: r.cpu_s):.1f} s"
    last = runs[-1]
    for at_s, what in sorted((at, what) for what, at in last.steps_s.items()):
        yield f"  {at_s:6.2f} s  {what}"
    yield "appeared   PSS         of it files  CPU so far  idle"
    for name in sorted(last.held, key=lambda name: last.processes_s.get(name, 0.0)):
        held, at_s = last.held[name], last.processes_s.get(name, 0.0)
        memory = f"{held.pss_mib:6.0f} MiB  {held.file_mib:6.0f} MiB"
        numbers = f"{memory}  {held.cpu_s:6.1f} s  {held.idle_cpu:6.1%}"
        yield f"  {at_s:6.2f} s  {numbers}  {name}"
    total = sum(held.pss_mib for held in last.held.values())
    idle = sum(held.idle_cpu for held in last.held.values())
    files = sum(held.file_mib for held in last.held.values())
    yield f"in all {total:.0f} MiB, {files:.0f} of them files, {idle:.1%} of a core while idle"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--idle-s", type=float, default=10.0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("flags", nargs="*", help="of galerne serve")
    arguments = parser.parse_args()
    runs = [measure(arguments.flags, arguments.idle_s) for _ in range(arguments.repeat)]
    print("\n".join(report(runs)))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(run) for run in runs], indent=1))


if __name__ == "__main__":
    main()
