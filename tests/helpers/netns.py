"""Hosts on one machine: Linux namespaces whose only way to one another is a bridge.

A host has an address, process ids, /tmp and /dev/shm of its own. Its first process reads a pipe
that this process holds, so whatever happens here, the kernel ends the host and takes its links away
with it; nothing is named, and nothing has to be found again to be removed.
"""

import os
import subprocess
from contextlib import ExitStack
from functools import cache

import psutil

from helpers.namespaces import Namespaces, shell

_SWITCH = "echo up; exec cat >/dev/null"
# The first process of a host buries whom nobody waits for, as an init does.
_HOST = """
mount -t tmpfs tmpfs /tmp && mount -t tmpfs tmpfs /dev/shm && hostname {name} || exit 1
echo up; exec env --ignore-signal=CHLD cat >/dev/null
"""
_NAMESPACES = ("--net", "--mount", "--uts", "--ipc", "--pid")
_BURST_BYTES = 128 << 10
_QUEUE_MS = 50
_BLOCKED, _FORWARDING = 0, 3  # states of a bridge's port


class Host:
    """One of the hosts; ``boot`` again after ``crash``."""

    def __init__(self, number, addresses, switch):
        self.name = f"host-{number}"
        self.address = addresses[number]
        self._number, self._addresses, self._switch = number, addresses, switch
        self._processes = []
        self._is_cut = False
        self.boot()

    def boot(self):
        """Start it and plug it in."""
        self._inside = Namespaces(_NAMESPACES, _HOST.format(name=self.name))
        self.pid = self._inside.pid
        try:
            self._plug_in()
        except BaseException:
            self.close()
            raise
        if self._is_cut:
            self.cut()

    def _plug_in(self):
        port = self.name
        shell(*self._switch.enter, "ip", "-batch", "-", text=f"""
            link add {port} type veth peer name eth0 address {_mac(self._number)} netns {self.pid}
            link set {port} master switch up
        """)  # fmt: skip
        # Neighbours are known for good: as behind a router, a packet to a host that is cut off is
        # lost, and nobody says so.
        known = "\n".join(
            f"neighbour replace {address} lladdr {_mac(number)} dev eth0 nud permanent"
            for number, address in enumerate(self._addresses)
            if number != self._number
        )
        shell(*self._inside.enter, "ip", "-batch", "-", text=f"""
            link set lo up
            address add {self.address}/24 dev eth0
            link set eth0 up
            {known}
        """)  # fmt: skip

    def popen(self, argv, env=None, **options):
        """Start a command there, in this directory. Ended with the host at the latest."""
        inside = (*self._inside.enter, f"--wdns={os.getcwd()}", *argv)
        process = subprocess.Popen(inside, env=env, **options)
        self._processes.append(process)
        return process

    def run(self, argv, env=None, timeout=60, **options):
        """Run a command there; what it has printed."""
        process = self.popen(
            argv, env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
        )
        out, err = process.communicate(timeout=timeout)
        assert process.returncode == 0, f"{self.name}: {argv}: {out}{err}"
        return out

    def cut(self):
        """Lose every packet from and to this host, in silence."""
        self._set_port(_BLOCKED)
        self._is_cut = True

    def heal(self):
        """Undo ``cut``."""
        self._set_port(_FORWARDING)
        self._is_cut = False

    def limit(self, mbit):
        """Let at most so much through each way, in megabits a second; None: no limit."""
        for enter, device in ((self._switch.enter, self.name), (self._inside.enter, "eth0")):
            on = ("tc", "qdisc", "replace" if mbit else "del", "dev", device, "root")
            how = f"tbf rate {mbit}mbit burst {_BURST_BYTES} latency {_QUEUE_MS}ms".split()
            shell(*enter, *on, *(how if mbit else ()))

    def crash(self):
        """End everything on it at once, as a power cut does: its sockets say no good-bye."""
        shell(*self._switch.enter, "ip", "link", "del", self.name)
        psutil.Process(self.pid).kill()
        self.close()

    def close(self):
        """End everything on it, and wait for that."""
        self._inside.end()
        for process in self._processes:
            process.wait(20)
            for pipe in filter(None, (process.stdin, process.stdout, process.stderr)):
                pipe.close()
        self._processes.clear()

    def _set_port(self, state):
        shell(*self._switch.enter, "bridge", "link", "set", "dev", self.name, "state", str(state))


class Hosts(list):
    """So many hosts that reach one another and nothing else. Use as a context manager."""

    def __init__(self, count):
        """Start them.

        Raises:
            OSError: Namespaces are refused here; says why.
        """
        super().__init__()
        addresses = [f"10.77.0.{number + 1}" for number in range(count)]
        self._switch = Namespaces(("--net",), _SWITCH)
        try:
            made = "link add switch type bridge forward_delay 0\nlink set switch up\n"
            shell(*self._switch.enter, "ip", "-batch", "-", text=made)
            for number in range(count):
                self.append(Host(number, addresses, self._switch))
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """End all of them."""
        with ExitStack() as ends:  # whatever one of them has to say
            ends.callback(self._switch.end)
            for host in self:
                ends.callback(host.close)


@cache
def why_not():
    """Why this machine has no such hosts; None if it has."""
    try:
        with Hosts(2) as (one, other):
            one.limit(100)
            other.cut()
            one.run(["true"])
    except (OSError, AssertionError, subprocess.SubprocessError) as error:
        return str(error)
    return None


def _mac(number):
    return f"02:00:00:00:00:{number + 1:02x}"
