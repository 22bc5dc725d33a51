"""The shell around session and transport, over a transport and a clock moved by hand."""

from collections import deque

import numpy as np
import pytest
import torch

from galerne.errors import ProtocolError
from helpers.session_gateway import A, B, all_to, create_config, create_topology
from router.exchange.exchange import ExpertExchange
from router.exchange.session import ExchangeSession
from router.exchange.transport import Answer, LinkUp, Refusal

HIDDEN = 3


class HandClock:
    def __init__(self):
        self.time_s = 50.0

    def now_s(self):
        return self.time_s


class HandTransport:
    """Events are put in by hand; a receive that finds none lets its time pass."""

    def __init__(self, clock, shards):
        self.clock = clock
        self.events = deque(LinkUp(shard) for shard in shards)
        self.sent = []

    def send(self, frame):
        self.sent.append(frame)

    def send_call(self, call):
        return None

    def receive(self, timeout_s, num_awaited=1):
        if self.events:
            return self.events.popleft()
        self.clock.time_s += max(timeout_s, 0.0)
        return None

    def answer(self, frame, rows=None):
        if rows is None:
            experts = np.repeat(frame.rows.expert_ids, frame.rows.num_rows_by_group)
            x = frame.tokens[torch.from_numpy(frame.rows.row_token)]
            rows = x * torch.from_numpy(experts + 1)[:, None]
        self.events.append(Answer(frame.shard, frame.frame, rows))


@pytest.fixture
def clock():
    return HandClock()


@pytest.fixture
def transport(clock):
    return HandTransport(clock, (A, B))


@pytest.fixture
def exchange(clock, transport):
    session = ExchangeSession(create_topology(), create_config())
    exchange = ExpertExchange(session, transport, clock)
    exchange.start_step(1)
    return exchange


def test_rows_land_in_the_slots_that_were_asked(exchange, transport):
    x, routing = torch.arange(6.0).view(2, HIDDEN), np.array([[0, 3], [1, 5]])
    away = exchange.begin(0, 0, x, routing)
    for frame in reversed(transport.sent):
        transport.answer(frame)
    assert torch.equal(away.wait(), x[:, None] * torch.from_numpy(routing + 1)[:, :, None])


def test_no_tokens_give_no_rows(exchange):
    away = exchange.begin(0, 0, torch.ones(0, HIDDEN), np.zeros((0, 2), dtype=np.int64))
    assert away.wait().shape == (0, 2, HIDDEN)


def test_answers_that_came_while_the_gateway_slept_accuse_nobody(exchange, transport, clock):
    away = exchange.begin(0, 0, torch.ones(1, HIDDEN), all_to(0, 1))
    sent = list(transport.sent)
    assert {frame.shard for frame in sent} == {A, B}
    clock.time_s += 1.0  # a pause of the whole process: every deadline is over, the answers are in
    for frame in sent:
        transport.answer(frame)
    away.wait()
    assert transport.sent == sent
    assert exchange.counters.suspicions == 0


@pytest.mark.parametrize(
    "rows", [torch.ones(1, HIDDEN + 1), torch.ones(2, HIDDEN), torch.ones(1, HIDDEN).bfloat16()]
)
def test_an_answer_of_another_form_is_asked_of_the_replica(exchange, transport, rows):
    x = torch.ones(1, HIDDEN)
    away = exchange.begin(0, 0, x, all_to(0, 1))
    wrong, other = transport.sent
    transport.answer(wrong, rows)
    transport.answer(other)
    receive = transport.receive

    def receive_and_answer(timeout_s, num_awaited=1):
        for frame in transport.sent[2:]:
            transport.answer(frame)
        return receive(timeout_s, num_awaited)

    transport.receive = receive_and_answer
    assert away.wait()[0, :, 0].tolist() == [1.0, 2.0]
    assert [frame.shard for frame in transport.sent[2:]] == [other.shard]
    assert exchange.counters.refused_frames == 1


def test_a_step_that_failed_leaves_nothing_to_the_next(exchange, transport):
    first = exchange.begin(0, 0, torch.ones(1, HIDDEN), all_to(0, 3))
    exchange.begin(0, 1, torch.ones(1, HIDDEN), all_to(0, 3))
    frame = transport.sent[0]
    transport.events.append(Refusal(frame.shard, frame.frame, ProtocolError("epoch")))
    with pytest.raises(ProtocolError, match="epoch"):
        first.wait()
    late = list(transport.sent)
    exchange.start_step(2)
    for frame in late:
        transport.answer(frame)
    x = torch.full((1, HIDDEN), 2.0)
    away = exchange.begin(0, 0, x, all_to(0, 3))
    for frame in transport.sent[len(late) :]:
        assert frame.step == 2
        transport.answer(frame)
    assert away.wait()[0, :, 0].tolist() == [2.0, 8.0]
    assert exchange.counters.late_answers == len(late)
