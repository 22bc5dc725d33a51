"""What the controller knows of frontends, and how all of them drain; parts of one, without Ray."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.control.frontends import GONE_AFTER_S, FrontendBook
from cluster.ingress.busy import BusyMeter
from cluster.ingress.frontend_policy import BUSY, LAG_S
from cluster.ingress.leaving import SILENT_AFTER_S, HealthChecks, is_let_go, until_let_go
from cluster.ingress.replicas import is_frontend
from galerne.clock import VirtualClock
from galerne.metric_set import MetricSet
from helpers.waiting import until
from router.api.metrics_page import metrics_page
from router.api.peers import DrainFacts, FrontendNews


@pytest.fixture
def clock():
    return VirtualClock()


@pytest.fixture
def book(clock):
    return FrontendBook(clock.now_s)


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.floats(0, 4)), max_size=40))
def test_names_of_frontends_that_live_are_different_small_and_their_own_for_life(told):
    clock = VirtualClock()
    book, numbers, heard_s = FrontendBook(clock.now_s), {}, {}
    for frontend, pause_s in told:
        clock.move_to(clock.now_s() + pause_s)
        number = book.hear(frontend, FrontendNews(number=numbers.get(frontend))).number
        live = [f for f, at in heard_s.items() if clock.now_s() - at <= GONE_AFTER_S]
        if frontend in live:
            assert number == numbers[frontend]
        numbers[frontend], heard_s[frontend] = number, clock.now_s()
        everyone = {*live, frontend}
        assert len({numbers[f] for f in everyone}) == len(everyone) == book.num_live
        assert max(numbers[f] for f in everyone) < 5


def test_a_controller_that_restarts_gives_everyone_the_name_it_had(clock, book):
    assert [book.hear(f, FrontendNews()).number for f in "abc"] == [0, 1, 2]
    anew = FrontendBook(clock.now_s)
    assert anew.hear("c", FrontendNews(number=2)).number == 2
    assert anew.hear("b", FrontendNews(number=1)).number == 1
    assert anew.hear("d", FrontendNews()).number == 0
    assert anew.hear("a", FrontendNews(number=0)).number == 3  # it is taken


def test_comings_and_goings_are_told(clock):
    told = []
    book = FrontendBook(clock.now_s, lambda *event: told.append(event))
    for frontend in "aab":
        book.hear(frontend, FrontendNews())
    clock.move_to(GONE_AFTER_S - 1)
    book.hear("b", FrontendNews())
    clock.move_to(GONE_AFTER_S + 1)
    assert book.num_live == 1
    assert told == [
        ("frontend_joined", "frontend-0"),
        ("frontend_joined", "frontend-1"),
        ("frontend_left", "frontend-0"),
    ]


def test_an_order_reaches_all_and_is_done_when_all_have_carried_it_out(clock, book):
    for frontend in "ab":
        assert book.hear(frontend, FrontendNews(num_running=2)).drain is None
    assert book.drain("first", 10.0) == DrainFacts(running=4, aborted=0, is_done=False)
    clock.move_to(3.0)
    for frontend in "ab":
        order = book.hear(frontend, FrontendNews(num_running=1)).drain
        assert (order.id, order.seconds_left) == ("first", 7.0)
    book.hear("a", FrontendNews(drained="first", num_aborted=1))
    assert book.drain("first", 7.0) == DrainFacts(running=1, aborted=1, is_done=False)
    book.hear("b", FrontendNews(drained="first", num_aborted=2))
    assert book.drain("first", 7.0) == DrainFacts(running=0, aborted=3, is_done=True)


def test_a_frontend_that_comes_later_is_drained_too_and_one_that_died_is_not_waited_for(
    clock, book
):
    book.hear("a", FrontendNews(num_running=5))
    book.drain("first", 1.0)
    clock.move_to(2 * GONE_AFTER_S)
    late = book.hear("b", FrontendNews())
    assert (late.drain.id, late.drain.seconds_left) == ("first", 0.0)
    assert not book.drain("first", 0.0).is_done
    book.hear("b", FrontendNews(drained="first"))
    assert book.drain("first", 0.0).is_done
    assert book.num_live == 1


def test_the_newest_order_counts_for_whoever_asks(book):
    book.hear("a", FrontendNews())
    book.drain("first", 60.0)
    book.drain("second", 1.0)
    assert not book.drain("first", 60.0).is_done  # and is not given again
    assert book.hear("a", FrontendNews(drained="first")).drain.id == "second"
    book.hear("a", FrontendNews(drained="second"))
    assert book.drain("first", 60.0).is_done
    assert book.drain("second", 1.0).is_done


def test_an_order_outlives_the_controller_in_those_who_have_carried_it_out(book):
    assert book.hear("a", FrontendNews(drained="first")).drain.id == "first"
    assert book.hear("b", FrontendNews()).drain.id == "first"
    assert not book.drain("first", 30.0).is_done


def test_metrics_of_every_frontend_are_shown_once_and_never_go_back(clock, book):
    own = MetricSet()
    book.hear("a", FrontendNews(metrics=b"# TYPE x gauge\nx 3.0\n"))
    book.hear("b", FrontendNews(metrics=b"# TYPE x gauge\nx 4.0\n"))
    page = metrics_page(own, book.metrics(), "frontend-0").decode()
    assert 'x{process="frontend-0"} 3.0' in page
    assert 'x{process="frontend-1"} 4.0' in page
    assert page.count('process="frontend-0"') == 1
    clock.move_to(2 * GONE_AFTER_S)
    assert book.metrics() == {}


def test_a_frontend_hears_whether_others_live_and_how_many_have_told_no_metrics(clock, book):
    def others(frontend, metrics=b""):
        orders = book.hear(frontend, FrontendNews(metrics=metrics))
        return orders.has_others, orders.num_silent

    assert others("a") == (False, 0)
    assert others("b") == (True, 1)
    assert book.metrics() == {}
    assert others("a", b"x 1.0") == (True, 1)
    assert others("b", b"x 2.0") == (True, 0)
    assert book.metrics() == {"frontend-0": b"x 1.0", "frontend-1": b"x 2.0"}
    clock.move_to(GONE_AFTER_S)
    others("a")
    clock.move_to(GONE_AFTER_S + 1)
    assert others("a") == (False, 0)
    assert book.metrics() == {}, "it is alone and tells none: what it told before is old"


async def test_a_busy_process_and_a_late_loop_are_told_apart():
    metrics = MetricSet()
    meter = BusyMeter(metrics)
    assert meter.latest == {BUSY: 0.0, LAG_S: 0.0}
    watching = asyncio.create_task(meter.watch(0.2, 0.01))

    def looks():
        return metrics.registry.get_sample_value("galerne_frontend_busy_looks_total")

    await until(lambda: looks() >= 1)
    idle = meter.latest
    spinning = asyncio.create_task(_spin(0.05))
    seen = looks()
    await until(lambda: looks() >= seen + 2)
    spinning.cancel()
    watching.cancel()
    assert meter.latest[BUSY] > idle[BUSY]
    assert meter.latest[LAG_S] > 0.01  # each turn of the other task takes 0.05 s
    assert b"galerne_frontend_busy_cores" in metrics.text()


async def _spin(seconds):
    loop = asyncio.get_running_loop()
    while True:
        end = loop.time() + seconds
        while loop.time() < end:
            pass
        await asyncio.sleep(0)


def test_only_our_own_replicas_count_as_frontends():
    named = "SERVE_REPLICA::galerne-1a#GalerneIngress#x7f3"
    assert is_frontend(named, "galerne-1a")
    assert not is_frontend(named, "galerne-1")
    assert not is_frontend("SERVE_PROXY_ACTOR", "galerne-1a")


def test_serve_may_have_let_a_replica_go_that_it_asks_no_more(clock):
    checks = HealthChecks(clock.now_s)
    clock.move_to(SILENT_AFTER_S)
    assert not checks.have_ceased
    clock.move_to(SILENT_AFTER_S + 1)
    assert checks.have_ceased
    checks.seen()
    assert not checks.have_ceased


def details(**state_by_replica):
    """As Serve tells them."""
    replicas = [{"actor_name": name, "state": state} for name, state in state_by_replica.items()]
    return {"applications": {"galerne": {"deployments": {"Frontend": {"replicas": replicas}}}}}


def test_a_replica_is_let_go_when_serve_stops_it_or_does_not_list_it():
    serve = details(one="RUNNING", other="STOPPING", new="STARTING")
    assert [is_let_go(serve, name) for name in ("one", "other", "new")] == [False, True, False]
    assert is_let_go(serve, "deleted")
    assert is_let_go({"applications": {}}, "one")


async def test_serve_is_asked_only_while_it_does_not_ask(clock):
    checks, answers = HealthChecks(clock.now_s), []
    leaving = asyncio.create_task(until_let_go(checks, lambda: answers.pop(0), period_s=0.001))
    await asyncio.sleep(0.05)  # an answer would be missing
    clock.move_to(SILENT_AFTER_S + 1)
    answers += [False, False, True]
    await asyncio.wait_for(leaving, 60)
    assert answers == []
