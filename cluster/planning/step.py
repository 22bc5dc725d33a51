"""Seconds of one step of one gateway, by part. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.planning.candidate import Candidate
from cluster.planning.costs import Calibration, NodeCosts
from cluster.planning.exchange import RoundTrip, queued_service, round_trip
from cluster.planning.load import NO_GUESSING, Guessing
from cluster.planning.shape import ModelShape
from galerne.topology import LinkTransport


@dataclass(frozen=True, slots=True, kw_only=True)
class StepWork:
    """What one step computes; means, so fractions are meant."""

    num_decoding: float  # sequences, one token each and its guesses
    context: float  # keys that each of their queries sees
    num_prefill: float = 0.0  # tokens
    prefill_context: float = 0.0  # keys that each of theirs sees
    guessing: Guessing = NO_GUESSING

    @property
    def num_decoded(self) -> float:
        """Tokens of sequences that decode, and guesses."""
        return self.num_decoding * self.guessing.rows

    @property
    def num_tokens(self) -> float:
        """All tokens that go through the layers."""
        return self.num_decoded + self.num_prefill


def step_parts(
    shape: ModelShape,
    calibration: Calibration,
    candidate: Candidate,
    work: StepWork,
    *,
    peers: float = 0.0,
) -> dict[str, float]:
    """Seconds of a step by ``layer, attention, experts, exchange, head, step, answer``.

    They sum up to a step as clients see it.

    ``peers``: other gateways that are in a step at the same time, on average. What the exchange
    hides behind attention is in neither ``experts`` nor ``exchange``.

    Raises:
        ValueError: The calibration lacks a link that the candidate needs.

    Source: design, section 8 (cost) and section 6 (overlap).
    """
    costs, layers = calibration.gateway, shape.num_layers
    # Gateways on one machine take its cores from one another.
    slower = 1 + peers * _near_peers(candidate)
    attention_s = slower * _attention(costs, work)
    guessing = work.guessing
    guessing_s = work.num_decoding * guessing.seconds
    if candidate.transport is LinkTransport.LOCAL:
        layer_s = slower * costs.layer.seconds(work.num_tokens)
        rows = work.num_tokens * shape.num_experts_per_tok
        experts_s = slower * costs.experts.seconds(shape.num_touched(work.num_tokens), rows)
        exchange_s = 0.0
    else:
        micros = _num_micro_batches(candidate, work)
        is_whole = candidate.shard_nodes > 0 and not costs.is_gpu
        dense = costs.layer if is_whole else costs.layer_beside
        layer_s = slower * micros * dense.seconds(work.num_tokens / micros)
        tokens = work.num_tokens / micros
        trip = round_trip(shape, calibration, candidate, tokens, has_peers=peers > 0)
        experts_s, exchange_s = _exposed(
            candidate, trip, micros, (layer_s + attention_s) / micros, peers, is_gpu=costs.is_gpu
        )
    return {
        "layer": layers * layer_s,
        "attention": layers * attention_s,
        "experts": layers * experts_s,
        "exchange": layers * exchange_s,
        "head": slower * costs.head.seconds(work.num_decoded),
        "step": slower * (costs.step.seconds(work.num_decoding) + guessing_s),
        # All tokens of gateways on one machine go through the same frontends.
        "answer": calibration.answer.seconds(slower * work.num_decoding * guessing.tokens),
    }


def _attention(costs: NodeCosts, work: StepWork) -> float:
    """One layer's products of queries with keys; queries of a chunk share their keys."""
    in_chunk_s = costs.attention_s if costs.chunk_attention_s is None else costs.chunk_attention_s
    decoded_s = costs.attention_s * work.num_decoded * work.context
    return decoded_s + in_chunk_s * work.num_prefill * work.prefill_context


def _near_peers(candidate: Candidate) -> float:
    """Part of the other gateways that run on the same machine."""
    if candidate.gateways == 1:
        return 0.0
    return max(candidate.gateways / candidate.gateway_nodes - 1, 0.0) / (candidate.gateways - 1)


def _num_micro_batches(candidate: Candidate, work: StepWork) -> float:
    """A step is split between sequences: no part is smaller than its largest one, the prefill."""
    return max(1.0, min(candidate.micro_batches, work.num_tokens / max(work.num_prefill, 1.0)))


def _exposed(
    candidate: Candidate,
    trip: RoundTrip,
    micros: float,
    dense_s: float,
    peers: float,
    *,
    is_gpu: bool,
) -> tuple[float, float]:
    """Seconds of one layer that experts and exchange add to its dense work.

    ``micros`` frames circulate between gateway, wire and shards. A layer takes as long as the
    busiest of the three, or as one frame's way around, whichever is longer: with T_c the way and
    T_f the stage this is m >= 2 (1 + T_c/T_f) of design, section 6. Where shards run on the
    gateway's own cores only the latency can be hidden. ``is_gpu``: the gateway is on a GPU, which
    it shares with none.
    """
    way_s = trip.gateway_s + trip.wire_s + trip.latency_s
    away_s = queued_service(trip, dense_s + way_s, peers * micros)
    around_s = dense_s + way_s + away_s
    busy_s = dense_s + trip.gateway_s
    if candidate.shard_nodes or is_gpu:
        shards_s = trip.service_s + peers * trip.peer_service_s
        busiest_s = micros * max(busy_s, trip.wire_s, shards_s)
    else:
        busiest_s = micros * (busy_s + trip.wire_s + away_s)
    exposed_s = max(busiest_s, around_s) - micros * dense_s
    experts_s = exposed_s * away_s / (way_s + away_s)
    return experts_s, exposed_s - experts_s
