"""The Ray of ours that nodes of other hosts join: what it asks for, and who is waited for."""

import pytest

from cluster.config import load_config
from cluster.nodes import ROLE_LABEL, Node
from cluster.open_head import check_open_head, open_head_of, token_place, wait_for_nodes
from cluster.ports import free_ports
from cluster.run_directory import RunDirectory
from cluster.runtime import local_environment
from galerne.errors import ConfigError

TOKEN = {"RAY_AUTH_TOKEN": "0" * 64}
HOST = "127.0.0.1"


def config(**settings):
    told = {"ray_head_host": HOST, "ray_head_port": free_ports(1)[0], "insecure_network": True}
    return load_config(None, told | settings)


def refusal(settings, environment=TOKEN):
    with pytest.raises(ConfigError) as caught:
        check_open_head(settings, environment)
    return caught.value


def node(number, num_cpus=2.0):
    return Node(f"node-{number}", num_cpus, not number)


def test_the_host_may_be_a_flag_and_the_rest_a_file(tmp_path):
    file = tmp_path / "galerne.yaml"
    file.write_text("ray_head: {port: 6380, num_cpus: 0, num_gpus: 2, metrics_port: 8080}\n")
    head = open_head_of(load_config(file, {"ray_head_host": "10.1.2.3"}))
    assert (head.host, head.port, head.num_cpus) == ("10.1.2.3", 6380, 0)
    assert head.ray_options() == {"num_gpus": 2, "labels": {}, "_metrics_export_port": 8080}


def test_ray_looks_for_gpus_itself_where_none_are_told():
    head = open_head_of(config(ray_head_role="gateway"))
    assert (head.num_gpus, head.ray_options()["num_gpus"]) == (None, None)
    assert head.ray_options()["labels"] == {ROLE_LABEL: "gateway"}


def test_without_it_ray_is_for_this_machine_alone():
    assert open_head_of(load_config(None, {})) is None
    check_open_head(load_config(None, {}), {})


def test_it_wants_a_token_that_other_nodes_can_have():
    check_open_head(config(), TOKEN)
    check_open_head(config(), {"RAY_AUTH_TOKEN_PATH": "/token"})
    assert "RAY_AUTH_TOKEN" in str(refusal(config(), {}))


def test_it_wants_tls_or_a_word_that_plaintext_is_accepted():
    assert refusal(config(insecure_network=False)).key == "insecure_network"


def test_it_does_not_go_with_joining_another_cluster():
    assert "address" in str(refusal(config(address="auto")))


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"await_nodes": 3}, "await_nodes"),
        ({"address": "auto", "ray_storage": "off"}, "ray_storage"),
        ({"address": "auto", "dashboard_port": 8265}, "dashboard_port"),
    ],
)
def test_what_would_be_ignored_is_refused_by_name(settings, key):
    assert refusal(load_config(None, settings)).key == key
    check_open_head(load_config(None, {"await_nodes": 1}), {})
    check_open_head(load_config(None, {"await_nodes": 3, "address": "auto"}), {})


def test_a_port_that_is_taken_is_refused_by_name(tmp_path):
    import socket

    with socket.create_server((HOST, 0)) as taken:
        found = refusal(config(ray_head_port=taken.getsockname()[1]))
    assert found.key == "ray_head.port"


def test_its_ray_is_reachable_has_the_given_port_and_keeps_the_token_of_the_environment():
    with RunDirectory() as run:
        alone = local_environment(run, None)
        opened = local_environment(run, None, open_head_of(config(ray_head_port=6379)))
    assert alone["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"  # Ray's word for loopback only
    assert "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" not in opened
    assert opened["RAY_GCS_SERVER_PORT"] == "6379"
    assert opened["RAY_AUTH_MODE"] == "token"
    assert "RAY_AUTH_TOKEN_PATH" not in opened


def test_nodes_are_waited_for_until_enough_have_room_for_parts():
    looks = [[node(0, 0.0)], [node(0, 0.0), node(1)], [node(0, 0.0), node(1), node(2)]]
    steps = []
    found = wait_for_nodes(2, 10.0, steps.append, iter(looks).__next__)
    assert [one.id for one in found] == ["node-0", "node-1", "node-2"]
    assert steps == ["waiting for nodes: 0 of 2", "waiting for nodes: 1 of 2"]


def test_without_a_number_those_that_are_there_do():
    assert wait_for_nodes(None, 10.0, print, lambda: [node(0)]) == [node(0)]


def test_nodes_that_do_not_come_are_an_error_that_counts_those_that_did():
    with pytest.raises(ConfigError, match="only 1 have joined") as caught:
        wait_for_nodes(3, 0.0, print, lambda: [node(0)])
    assert caught.value.key == "await_nodes"


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        (TOKEN, "RAY_AUTH_TOKEN"),
        ({"RAY_AUTH_TOKEN_PATH": "/token"}, "/token"),
        (TOKEN | {"RAY_AUTH_TOKEN_PATH": "/token"}, "RAY_AUTH_TOKEN"),
    ],
)
def test_whoever_looks_for_the_token_is_sent_where_it_is(environment, place):
    assert token_place(environment) == place
