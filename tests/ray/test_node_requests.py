"""Nodes asked for by placement groups, with Ray's own autoscaler: they come, or not, and go."""

import pytest

from helpers.netns import why_not
from helpers.ray_autoscaling import AutoscalingHost

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def cluster():
    reason = why_not()
    if reason is not None:
        pytest.skip(f"no network namespaces here: {reason}")
    with AutoscalingHost(shard=2, gateway=0) as running:
        yield running


@pytest.fixture(autouse=True)
def nothing_asked(cluster):
    yield
    cluster("give_up")
    cluster.until(lambda s: not s["groups"] and not s["roles"])


def test_nodes_that_are_there_are_asked_of_nobody(cluster):
    cluster("ask 1 0")
    found = cluster.until(lambda s: s["pending"] == 0)
    assert (found["groups"], found["demands"], found["roles"]) == ([], 0, [])


def test_nodes_come_with_their_label_stay_while_asked_for_and_go_when_let_go(cluster):
    assert cluster("ask 1 2")["pending"] > 0
    found = cluster.until(lambda s: s["pending"] == 0 and s["groups"] == ["CREATED"])
    assert found["roles"] == ["shard", "shard"]
    cluster("give_up")
    gone = cluster.until(lambda s: not s["roles"])
    assert (gone["pending"], gone["groups"], gone["demands"]) == (0, [], 0)


def test_a_part_keeps_its_node_when_the_request_is_gone_and_the_other_node_goes(cluster):
    cluster("ask 1 2")
    cluster.until(lambda s: s["pending"] == 0 and s["groups"] == ["CREATED"])
    cluster("occupy")
    cluster("give_up")
    left = cluster.until(lambda s: len(s["roles"]) < 2)
    assert (left["roles"], left["busy"], left["groups"]) == (["shard"], 1, [])
    cluster("vacate")
    cluster.until(lambda s: not s["roles"])


def test_what_cannot_come_stays_pending_until_it_is_given_up_and_then_nobody_waits(cluster):
    cluster("ask 2 1")  # no machine for gateways can be had
    found = cluster.until(lambda s: s["infeasible"])
    assert (found["pending"], found["groups"], found["demands"]) == (2, ["PENDING"], 1)
    assert found["roles"] == [], "a part of the request came that is of no use alone"
    assert cluster("give_up")["pending"] == 0
    cluster.until(lambda s: not (s["groups"] or s["demands"] or s["infeasible"]))


def test_a_controller_that_starts_anew_removes_what_the_last_one_asked_for(cluster):
    cluster("ask 2 1")
    before = cluster.until(lambda s: s["infeasible"])
    cluster("crash")
    after = cluster.until(lambda s: s["pid"] != before["pid"] and not s["groups"])
    assert after["pending"] == 0
    cluster.until(lambda s: not (s["demands"] or s["infeasible"]))
