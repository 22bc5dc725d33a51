"""One epoch's exchange, as a gateway makes it, with what is known of it from outside."""

from dataclasses import dataclass, field

from galerne.hello import Hello
from galerne.topology import Topology
from router.exchange.exchange import ExpertExchange
from router.exchange.links import LinkState
from router.exchange.session import ExchangeSession
from sim.laws import Law, Violation
from sim.ledger import Ledger
from sim.shards import FINGERPRINT, PROFILE
from sim.transport import SimTransport

INCARNATION = 7  # one process, many exchanges


@dataclass
class Member:
    """An exchange of one epoch."""

    topology: Topology
    exchange: ExpertExchange
    session: ExchangeSession
    transport: SimTransport
    ledger: Ledger
    step: int = 0
    open: list = field(default_factory=list)  # laws of calls that are away

    @property
    def is_ready(self):
        """Whether all links stand, as ``TopologySwitch.prepare`` asks."""
        return all(state is LinkState.UP for state in self.exchange.links.values())

    def check_open(self):
        for law in self.open:
            law.check_open(self.transport.world.time_s)

    def close_calls(self):
        """All are over."""
        self.open.clear()
        self.ledger.close()
        self.check_nothing_is_away()

    def check_nothing_is_away(self):
        """No call is away: nothing of one may be left."""
        exchange, session = self.exchange, self.session
        kept = {
            "inputs": exchange._inputs,
            "buffers": exchange._buffers,
            "whole calls": exchange._whole,
            "calls": session._calls,
            "flights": session._in_flight,
        }
        left = [name for name, value in kept.items() if value]
        if left:
            raise Violation(Law.RELEASED, f"left behind: {', '.join(left)}")


def create_member(world, cluster, schedule, topology):
    """An exchange that connects to the shards of a topology."""
    shards = cluster.shards_of(topology)
    hello = Hello(
        gateway=topology.gateways[0],
        incarnation=INCARNATION,
        fingerprint=FINGERPRINT,
        numerics_profile=PROFILE,
        epoch=topology.epoch,
    )
    ledger = Ledger(world, topology, schedule.config)
    transport = SimTransport(cluster.network, shards, hello, ledger, schedule.style)
    session = ExchangeSession(topology, schedule.config)
    exchange = ExpertExchange(session, transport, world)
    ledger.link_states = exchange.links
    member = Member(topology, exchange, session, transport, ledger)
    transport.on_look = member.check_open
    return member
