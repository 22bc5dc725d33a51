"""Shards and a gateway's transport, each with NCCL of its own on one stand-in for the GPUs."""

import logging
from contextlib import contextmanager

from galerne.ids import ShardId
from helpers.cluster import TOKEN, Shards, hello
from helpers.exchange_frames import FAST, wait_until
from helpers.fake_nccl import FakeFabric
from helpers.fixture_models import checkpoint
from router.exchange.nccl_link import NcclState
from router.exchange.nccl_transport import NcclTransport
from shards.nccl.process import NcclProcess

HOST = "this-host"
FIRST = ShardId("shard-0")


class NcclParts:
    """The processes' NCCL, by part; ``gateway`` is one of them."""

    def __init__(self, config=None):
        self.fabric = FakeFabric()
        self.config = config
        self.ports, self.processes = {}, {}
        self.gateway = self.process("gateway")

    def process(self, part, **changes):
        port = self.fabric.port()
        fields = {"open_port": lambda: port, "config": self.config, "host": HOST, **changes}
        self.ports[part], self.processes[part] = port, NcclProcess(**fields)
        return self.processes[part]

    def transport(self, shape, shards, nccl=None, **hello_changes):
        greeting = hello(checkpoint(), shape, **hello_changes)
        return NcclTransport(
            shape.shards, greeting, TOKEN, shards, nccl or self.gateway, config=FAST
        )

    def close(self):
        for port in self.ports.values():
            for gate in (port.join_gate, port.abort_gate, port.call_gate):
                gate.set()
        self.fabric.close()
        for process in self.processes.values():
            process.stop()
        # Whoever only drops a communicator waits for its peer, in ``ncclCommDestroy``.
        wait_until(lambda: not self.unaborted, lambda: f"aborts of {self.unaborted}")

    @property
    def unaborted(self):
        """Ends that were joined and not let go of."""
        return [end for port in self.fabric.ports for end in port.ends if not end.is_aborted]


class GivenUp(logging.Handler):
    """What the log says of links that were given up."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.lines = []

    def emit(self, record):
        if record.msg.startswith("nccl_"):
            self.lines.append(record.getMessage())


@contextmanager
def no_link_given_up():
    """For links that would otherwise go on by the stream, and nobody would see it."""
    seen, loggers = GivenUp(), [logging.getLogger(name) for name in ("router", "shards")]
    for each in loggers:
        each.addHandler(seen)
    try:
        yield
        assert seen.lines == []
    finally:
        for each in loggers:
            each.removeHandler(seen)


@contextmanager
def nccl_parts(config=None):
    parts = NcclParts(config)
    try:
        yield parts
    finally:
        parts.close()


@contextmanager
def nccl_shards(shape, config=None):
    """Shards that serve, and what creates a transport to them."""
    with nccl_parts(config) as parts:
        parts.gateway.runtime()  # its threads run before those of any transport
        shards = Shards(shape, nccl=parts.process)
        try:
            yield shards, parts.transport
        finally:
            shards.close()


def wait_for_state(transport, state, shard=FIRST):
    wait_until(
        lambda: transport.states[shard] is state, lambda: f"{state}: {transport.states[shard]}"
    )


def is_up(transport):
    return set(transport.states.values()) == {NcclState.UP}
