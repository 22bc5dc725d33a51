"""The same as ``test_pods`` for a RayService: its groups' pods, and the application Serve is told.

What the operator would add is in ``helpers.kuberay``.
"""

import time

import pytest

from helpers.helm import find, render
from helpers.kuberay import bring_application, operated
from helpers.netns import why_not
from helpers.pod_client import SMALL_VALUES, homes, stream
from helpers.pods import Pods

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

VALUES = SMALL_VALUES | {
    "deployment": "rayservice",
    "gcsFaultTolerance__backend": "rocksdb",
    "ray__headPatienceSeconds": 60,  # the chart's own: another head pod takes longer than 15 s
}
RAYS_OWN_PATIENCE_S = 120  # with a connection whose other end is silent, unless the chart says less


@pytest.fixture(scope="module")
def pods():
    reason = why_not()
    if reason is not None:
        pytest.skip(f"no network namespaces here: {reason}")
    manifests = render(**VALUES)
    with Pods(operated(manifests), num_spare_hosts=1) as running:
        running.wait_until_ready("shard-0", "shard-1")  # before there is anything to place on them
        bring_application(running, find(manifests, "RayService"))
        running.wait_until_ready()
        yield running


def test_the_application_is_served_through_the_pods_of_its_groups(pods):
    found = homes(pods)
    assert found["gateway-0"] == "head-0"
    assert {found["shard-0"], found["shard-1"]} == {"shard-0", "shard-1"}
    code, said = pods["head-0"].run_other(pods.templates["test"])
    assert code == 0, said
    assert "Paris" in said


def test_every_probe_passes_in_every_pod_of_the_groups(pods):
    for name, pod in pods.items():
        for kind in ("startup", "readiness", "liveness"):
            is_ok, said = pod.probe(kind)
            assert is_ok, f"{name} {kind}: {said}"


def test_a_pod_of_a_group_cut_off_in_a_stream_costs_no_token(pods):
    want = stream(pods)
    victim = pods[homes(pods)["shard-1"]]
    assert stream(pods, fault=victim.host.cut) == want
    assert stream(pods) == want


def test_another_head_pod_takes_up_the_state_and_serves_with_the_same_workers(
    pods, record_property
):
    want, workers = stream(pods), worker_processes(pods)
    began_s = time.monotonic()
    pods.replace_head()
    pods.wait_until_ready()
    took_s = time.monotonic() - began_s
    record_property("serves_again_after_s", took_s)
    assert took_s < RAYS_OWN_PATIENCE_S, "workers have held on to connections of the old head"
    assert stream(pods) == want
    assert worker_processes(pods) == workers
    found = homes(pods)
    assert found["gateway-0"] == "head-0"
    assert {found["shard-0"], found["shard-1"]} <= workers.keys()  # one may hold both, or each one


def worker_processes(pods):
    """Pids of the raylets that are not the head's."""
    raylets = {name: pod.processes("raylet") for name, pod in pods.items() if name != "head-0"}
    return {name: [process.pid for process in found] for name, found in raylets.items()}
