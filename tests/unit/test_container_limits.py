"""Cores and memory inside a container, and of the machines that gateways may be placed on."""

import pytest

from cluster.gateway_machines import GatewayMachines, gateway_machines
from cluster.nodes import Node, Role
from shards.cgroup import cpu_limit, memory_left
from shards.cores import CORES_VARIABLE, available_cores


def group(tmp_path, **files):
    for name, text in files.items():
        (tmp_path / name.replace("_", ".", 1)).write_text(text)
    return tmp_path


def node(number, role=None, num_cpus=4.0, memory_bytes=8e9):
    return Node(f"node-{number}", num_cpus, not number, role=role, memory_bytes=memory_bytes)


@pytest.mark.parametrize(
    ("text", "cores"), [("max 100000\n", None), ("250000 100000\n", 2.5), ("", None)]
)
def test_the_quota_of_a_container_is_read_in_cores(tmp_path, text, cores):
    assert cpu_limit(group(tmp_path, cpu_max=text)) == cores


def test_without_a_cgroup_there_are_no_limits(tmp_path):
    assert cpu_limit(tmp_path) is None
    assert memory_left(tmp_path) is None


def test_memory_left_counts_cached_pages_of_files_as_free(tmp_path):
    stat = "anon 500\nfile 400\nactive_file 100\ninactive_file 200\nshmem 100\n"
    of_container = group(tmp_path, memory_max="1000\n", memory_current="900\n", memory_stat=stat)
    assert memory_left(of_container) == 1000 - 900 + 300


def test_a_container_above_its_limit_has_nothing_left(tmp_path):
    over = group(tmp_path, memory_max="1000\n", memory_current="1200\n", memory_stat="")
    assert memory_left(over) == 0


def test_a_container_without_a_limit_has_no_number(tmp_path):
    assert memory_left(group(tmp_path, memory_max="max\n", memory_current="9\n")) is None


def test_the_variable_and_the_quota_lower_the_number_of_cores_and_never_to_none(monkeypatch):
    monkeypatch.setattr("shards.cores.os.sched_getaffinity", lambda _pid: set(range(8)))
    monkeypatch.setattr("shards.cores.cpu_limit", lambda: None)
    monkeypatch.delenv(CORES_VARIABLE, raising=False)
    assert available_cores() == 8
    monkeypatch.setenv(CORES_VARIABLE, "6")
    assert available_cores() == 6
    monkeypatch.setattr("shards.cores.cpu_limit", lambda: 3.5)
    assert available_cores() == 3
    monkeypatch.setattr("shards.cores.cpu_limit", lambda: 0.5)
    assert available_cores() == 1


def test_gateways_are_sized_by_the_smallest_node_with_their_label():
    nodes = [
        node(0, num_cpus=0.0),
        node(1, Role.GATEWAY, num_cpus=8.0, memory_bytes=5e9),
        node(2, Role.GATEWAY, num_cpus=6.0, memory_bytes=9e9),
        node(3, Role.SHARD, num_cpus=2.0, memory_bytes=1e9),
        node(4, None, num_cpus=1.0, memory_bytes=1e9),
    ]
    assert gateway_machines(nodes) == GatewayMachines(number=2, num_cores=6, free_bytes=5 * 10**9)


def test_without_labels_every_node_but_those_of_shards_counts():
    found = gateway_machines([node(0), node(1, num_cpus=2.0), node(2, Role.SHARD, num_cpus=1.0)])
    assert (found.number, found.num_cores) == (2, 2)


@pytest.mark.parametrize("nodes", [(), (node(0, num_cpus=99.0),)], ids=["none", "one"])
def test_one_machine_is_measured_here_and_not_by_ray(nodes):
    found = gateway_machines(nodes)
    assert (found.number, found.num_cores) == (1, available_cores())


@pytest.mark.parametrize(
    ("number", "num_gateways", "threads"), [(1, 1, 8), (1, 2, 4), (2, 2, 8), (2, 3, 4), (1, 9, 1)]
)
def test_gateways_on_one_machine_share_its_cores(number, num_gateways, threads):
    machines = GatewayMachines(number=number, num_cores=8, free_bytes=0)
    assert machines.threads_of_each(num_gateways) == threads
