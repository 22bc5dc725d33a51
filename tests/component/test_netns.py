"""The hosts that tests of several hosts stand on."""

import json
import subprocess
import sys

import pytest

from helpers.namespaces import signal_inside
from helpers.netns import Hosts, why_not

# Answers every connection with as many bytes as it has got.
_SERVER = """
import socket
with socket.create_server(("0.0.0.0", 5000)) as server:
    print("up", flush=True)
    while True:
        with server.accept()[0] as peer:
            size = 0
            while part := peer.recv(1 << 16):
                size += len(part)
            peer.sendall(str(size).encode())
"""
_CLIENT = """
import json, socket, sys, time
began = time.monotonic()
try:
    with socket.create_connection((sys.argv[1], 5000), 0.5) as peer:
        peer.settimeout(20)
        peer.sendall(bytes(int(sys.argv[2])))
        peer.shutdown(socket.SHUT_WR)
        said = peer.recv(100).decode()
except OSError as error:
    said = type(error).__name__
print(json.dumps([said, time.monotonic() - began]))
"""


@pytest.fixture(scope="module")
def hosts():
    reason = why_not()
    if reason is not None:
        pytest.skip(f"no network namespaces here: {reason}")
    with Hosts(3) as made:
        server = made[0].popen([sys.executable, "-c", _SERVER], stdout=subprocess.PIPE)
        assert server.stdout.readline() == b"up\n"
        yield made
        signal_inside(server, 9)


def send(hosts, host, size=100):
    command = [sys.executable, "-c", _CLIENT, hosts[0].address, str(size)]
    said, seconds = json.loads(host.run(command))
    return said, seconds


def test_a_host_that_is_cut_off_is_lost_in_silence_until_it_is_healed(hosts):
    assert send(hosts, hosts[1])[0] == "100"
    hosts[1].cut()
    said, seconds = send(hosts, hosts[1])
    assert said == "TimeoutError", "neither refused nor unreachable"
    assert seconds > 0.5
    assert send(hosts, hosts[2])[0] == "100"
    hosts[1].heal()
    assert send(hosts, hosts[1])[0] == "100"


def test_a_limit_makes_the_network_slow(hosts):
    size = 4_000_000
    hosts[1].limit(50)
    said, seconds = send(hosts, hosts[1], size)
    assert said == str(size)
    assert seconds > 0.8 * size * 8 / 50e6
    hosts[1].limit(None)
    assert send(hosts, hosts[1], size)[1] < 0.5 * size * 8 / 50e6


def test_hosts_share_nothing_but_the_network(hosts):
    one, other = hosts[1:]
    one.run(["sh", "-c", "echo mine > /tmp/file; echo mine > /dev/shm/file"])
    assert one.run(["cat", "/tmp/file", "/dev/shm/file"]) == "mine\nmine\n"
    assert other.run(["ls", "/tmp", "/dev/shm"]).split() == ["/dev/shm:", "/tmp:"]
    assert int(other.run(["sh", "-c", "echo $$"])) < 100
    assert other.run(["hostname"]).strip() == other.name


def test_a_host_that_has_crashed_boots_again_and_has_forgotten_all(hosts):
    left = hosts[2].popen(["sleep", "1000"])
    hosts[2].run(["touch", "/tmp/file"])
    hosts[2].crash()
    assert left.poll() is not None
    hosts[2].boot()
    assert hosts[2].run(["ls", "/tmp"]) == ""
    assert send(hosts, hosts[2])[0] == "100"
