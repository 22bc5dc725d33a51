"""Frames with known results, waits with a deadline, and a peer that keeps to no rule."""

import asyncio
import queue
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace

import grpc
import numpy as np
import torch

from galerne.frame import DType, FrameHeader, FrameKind, Reassembler, encode
from galerne.hello import (
    CHANNEL_OPTIONS,
    EXCHANGE_METHOD,
    TOKEN_METADATA_KEY,
    decode_welcome,
    encode_hello,
)
from galerne.ids import ShardId
from galerne.loop_thread import grpc_loop
from helpers.cluster import TOKEN, hello
from helpers.fixture_models import checkpoint
from helpers.waiting import PATIENCE_S
from router.exchange.dispatch import rows_of
from router.exchange.grpc_link import LinkConfig
from router.exchange.grpc_transport import GrpcTransport
from router.exchange.transport import LinkUp, OutgoingFrame
from shards.bank import ExpertBank
from shards.wire import RequestRows, request_sections

DTYPE = torch.bfloat16
FAST = LinkConfig(connect_timeout_s=1.0, backoff_min_s=0.01, backoff_max_s=0.05)


def all_experts():
    source = checkpoint()
    everything = dict.fromkeys(range(source.config.num_layers), range(source.config.num_experts))
    return ExpertBank(source, everything, DTYPE)


def create_tokens(num_tokens, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_tokens, checkpoint().config.hidden_size, generator=generator).to(DTYPE)


def create_routing(num_tokens, seed=0, experts=None):
    experts = np.arange(checkpoint().config.num_experts) if experts is None else np.array(experts)
    scores = np.random.default_rng(seed).random((num_tokens, len(experts)))
    return experts[np.sort(np.argsort(scores, axis=1)[:, :2], axis=1)]


def create_frame(shard, experts, frame=0, *, num_tokens=3, layer=0):
    """A frame of ``num_tokens`` tokens, two of ``experts`` each."""
    routing = create_routing(num_tokens, frame, experts)
    rows = rows_of(routing, np.arange(routing.size))
    return OutgoingFrame(
        shard=shard,
        frame=frame,
        attempt=0,
        step=1,
        layer=layer,
        micro_batch=0,
        rows=rows,
        source=create_tokens(num_tokens, frame),
    )


def result_of(bank, frame):
    rows = frame.rows
    return bank.run(
        frame.layer, frame.tokens, rows.expert_ids, rows.num_rows_by_group, rows.row_token
    )


def expected_rows(bank, layer, x, routing):
    """``[T, K, H]`` computed one by one."""
    rows = rows_of(routing, np.arange(routing.size))
    ordered = bank.run(
        layer, x, rows.expert_ids, rows.num_rows_by_group, rows.tokens[rows.row_token]
    )
    result = torch.empty_like(ordered)
    result[torch.from_numpy(rows.slots)] = ordered
    return result.view(*routing.shape, -1)


def receive(transport, count, patience_s=PATIENCE_S):
    """The next ``count`` events."""
    events, end_s = [], time.monotonic() + patience_s
    while len(events) < count:
        assert time.monotonic() < end_s, f"{len(events)} of {count} events: {events[-3:]}"
        event = transport.receive(0.1)
        if event is not None:
            events.append(event)
    return events


def wait_up(transport, count):
    events = receive(transport, count)
    assert {type(event) for event in events} == {LinkUp}
    return events


def wait_until(is_true, what, patience_s=PATIENCE_S):
    end_s = time.monotonic() + patience_s
    while not is_true():
        assert time.monotonic() < end_s, f"waited in vain for {what() if callable(what) else what}"
        time.sleep(0.005)


def wait_for_links(exchange, state):
    """Until every link of an exchange is in this state."""

    def has_come():
        exchange.poll()
        return set(exchange.links.values()) == {state}

    wait_until(has_come, f"links {state}: {exchange.links}")


def running():
    """Threads and tasks of the process' gRPC loop, by name. The loop's own threads stay."""
    tasks = asyncio.all_tasks(grpc_loop().loop)
    names = [task.get_coro().__qualname__ for task in tasks if not task.done()]
    names += [thread.name for thread in threading.enumerate()]
    return Counter(name for name in names if not name.startswith("asyncio_"))


class Rogue:
    """A gateway of raw messages: sends and reads what a test wants."""

    def __init__(self, address, shape, token=TOKEN):
        self.hello = hello(checkpoint(), shape)
        options = [o for o in CHANNEL_OPTIONS if o[0] != "grpc.max_send_message_length"]
        options.append(("grpc.max_send_message_length", -1))
        self._channel = grpc.insecure_channel(address, options=options)
        self._requests = queue.SimpleQueue()
        self._reassembler = Reassembler(1 << 28)
        self._call = self._channel.stream_stream(EXCHANGE_METHOD)(
            iter(self._requests.get, None),
            metadata=((TOKEN_METADATA_KEY, token),),
            timeout=2 * PATIENCE_S,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.half_close()
        self._call.cancel()
        self._channel.close()

    def greet(self):
        self.send(encode_hello(self.hello))
        return decode_welcome(self.read())

    def send(self, *messages):
        for message in messages:
            self._requests.put(message)

    def half_close(self):
        self._requests.put(None)

    def read(self):
        """The next frame."""
        frame = None
        while frame is None:
            frame = self._reassembler.push(next(self._call))
        return frame

    def ended_with(self):
        """Status code and details of the stream, once whatever came before is read."""
        try:
            for _ in self._call:
                pass
        except grpc.RpcError:
            pass
        return self._call.code(), self._call.details()

    def request(self, outgoing, **changes):
        """Messages of a request frame, with header fields changed."""
        rows = outgoing.rows
        fields = {
            "kind": FrameKind.REQUEST,
            "incarnation": self.hello.incarnation,
            "epoch": self.hello.epoch,
            "frame": outgoing.frame,
            "layer": outgoing.layer,
            "dtype": DType.BF16,
            "num_tokens": len(outgoing.tokens),
            "num_rows": len(rows.slots),
            "hidden_size": outgoing.tokens.shape[1],
            **changes,
        }
        payload = RequestRows(
            outgoing.tokens, rows.expert_ids, rows.num_rows_by_group, rows.row_token
        )
        return encode(FrameHeader(**fields), request_sections(payload))


@contextmanager
def open_transport(shape, book, token=TOKEN, tls=None, **hello_changes):
    greeting = replace(hello(checkpoint(), shape), **hello_changes)
    transport = GrpcTransport(shape.shards, greeting, token, book, FAST, tls=tls)
    try:
        yield transport
    finally:
        transport.close()


def assert_served(shards, shape, bank, number=0):
    """Another gateway's stream works."""
    with open_transport(shape, shards) as transport:
        wait_up(transport, 1)
        frame = create_frame(ShardId("shard-0"), range(4), number)
        transport.send(frame)
        (answer,) = receive(transport, 1)
        assert torch.equal(answer.rows, result_of(bank, frame))


def assert_answers(transport, bank, number=0, num_tokens=3):
    """One frame to the first shard gets its answer."""
    frame = create_frame(ShardId("shard-0"), range(4), number, num_tokens=num_tokens)
    transport.send(frame)
    (answer,) = receive(transport, 1)
    assert torch.equal(answer.rows, result_of(bank, frame))


def assert_exchanges(exchange, bank, seed=0, layer=0, num_tokens=9):
    """A call gets the rows of the bank."""
    x, routing = create_tokens(num_tokens, seed), create_routing(num_tokens, seed)
    result = exchange.begin(layer, 0, x, routing).wait()
    assert torch.equal(result, expected_rows(bank, layer, x, routing))
