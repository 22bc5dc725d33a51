"""What will be the bottleneck, and what cannot work. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cluster.doctor.fit import Residuals
from cluster.doctor.gpu import nccl_omission
from cluster.doctor.machine import Machine
from cluster.doctor.others import Taken
from cluster.planning.candidate import Candidate
from cluster.planning.costs import Calibration
from cluster.planning.gpu_memory import ALONE, GpuMemory, Split
from cluster.planning.shape import ModelShape
from cluster.planning.step import StepWork, step_parts
from galerne.topology import LinkTransport, Mode
from galerne.units import size_text
from shards.kernels.kinds import CPU

CONTEXT = 512  # tokens before the one that is decoded, where a step is judged
SEQUENCES = (1, 64)
_SAME = 0.7  # of the memory's rate: weights are read as fast as they come

MAX_MEDIAN_ERROR = 0.15  # what the planner's predictions are to keep: issue 6
MAX_DRIFT = 0.15
MAX_TAKEN = 0.1  # of the cores' time

_WORDS = {
    "layer": "projections, gate and shared expert",
    "attention": "attention over the cache",
    "experts": "routed experts",
    "head": "the head",
    "step": "scheduling, sampling and Python",
    "answer": "the way of tokens through frontends to clients",
}

_LOCAL = Candidate(
    mode=Mode.LATENCY,
    transport=LinkTransport.LOCAL,
    gateways=1,
    shards=1,
    replicas=1,
    micro_batches=1,
    max_num_seqs=max(SEQUENCES),
    max_batched_tokens=max(SEQUENCES),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that is refused, or that runs otherwise than asked."""

    field: str
    problem: str
    is_refusal: bool

    def __str__(self) -> str:
        return f"{self.field}: {self.problem}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepVerdict:
    """A decode step with all experts in the gateway, on this machine."""

    num_sequences: int
    step_s: float
    parts_s: Mapping[str, float]
    bottleneck: str  # in words

    @property
    def tokens_per_s(self) -> float:
        """Decoded, all sequences together."""
        return self.num_sequences / self.step_s


def decode_parts(
    costs: Calibration, shape: ModelShape, num_sequences: int, context: float
) -> dict[str, float]:
    """Seconds by part of a decode step with the experts in the gateway.

    Source: ``step_parts``, without an exchange.
    """
    # A query sees itself, too.
    work = StepWork(num_decoding=num_sequences, context=context + 1)
    parts = step_parts(shape, costs, _LOCAL, work)
    return {name: parts[name] for name in _WORDS}


def judge_step(
    costs: Calibration, shape: ModelShape, machine: Machine, num_sequences: int
) -> StepVerdict:
    """The part that takes most of a step, and whether memory bounds it."""
    parts = decode_parts(costs, shape, num_sequences, CONTEXT)
    largest = max(parts, key=lambda name: parts[name])
    total = sum(parts.values())
    read_bytes = {
        "layer": shape.num_layers * shape.layer_bytes,
        "experts": shape.num_layers * shape.num_touched(num_sequences) * shape.expert_bytes,
        "head": shape.head_bytes,
    }
    rate = read_bytes.get(largest, 0.0) / parts[largest]
    gpus = machine.gpus
    whose, given = "memory", machine.read_bytes_per_s
    if costs.gateway.is_gpu and gpus is not None:
        whose, given = "the GPU's memory", gpus.read_bytes_per_s
    share = rate / given
    why = ""
    if largest in read_bytes:
        bound = "memory bandwidth" if share >= _SAME else "not memory bandwidth"
        why = f": {rate / 1e9:.1f} GB/s of weights, {share:.0%} of what {whose} gives ({bound})"
    return StepVerdict(
        num_sequences=num_sequences,
        step_s=total,
        parts_s=parts,
        bottleneck=f"{_WORDS[largest]}, {parts[largest] / total:.0%} of a step{why}",
    )


def exchange_words(costs: Calibration, shape: ModelShape) -> list[str]:
    """For each transport: what one exchange with two shards adds, per layer and per token."""
    lines = []
    for transport, link in costs.links.items():
        row = 2 * shape.row_bytes
        bytes_s = (2 * row + shape.num_experts_per_tok * shape.row_bytes) / link.bytes_per_s
        once = 2 * link.gateway_s + link.shard_s + link.latency_s + bytes_s
        lines.append(
            f"{transport.value}: an exchange of one token with 2 shards adds {once * 1e6:.0f} us "
            f"a layer, {once * shape.num_layers * 1e3:.2f} ms a token, beside the experts"
        )
    return lines


def findings(
    machine: Machine,
    shape: ModelShape,
    port_by_field: Mapping[str, int] | None = None,
    devices: tuple[str, str] = (CPU, CPU),
    gpu_memory: GpuMemory | None = None,
) -> list[Finding]:
    """What cannot work here, by the name of the setting; an empty list if all can.

    ``devices``: of gateways, and of shards; ``gpu_memory``: where gateways are on a GPU.
    """
    if devices[0] == CPU or gpu_memory is None:
        found = _memory(machine, shape)
    else:
        found = _on_gpus(machine, shape, devices, gpu_memory)
    omitted = _nccl(machine) if devices[1] != CPU else ()
    return [*found, *_ports(machine, port_by_field or {}), *_sharing(machine), *omitted]


def doubts(drift: float, residuals: Mapping[str, Residuals], taken: Taken) -> list[Finding]:
    """Why a calibration should not be trusted; other work on the machine is the usual reason."""
    poor = [f"{n} {r.median:.0%}" for n, r in residuals.items() if r.median > MAX_MEDIAN_ERROR]
    found = []
    if abs(drift) > MAX_DRIFT:
        found.append(f"the machine drifted by {drift:+.0%} while measuring")
    if sum(taken) > MAX_TAKEN:
        problem = f"others took {taken.by_others:.0%} of the cores meanwhile"
        found.append(f"{problem}, and the host {taken.stolen:.0%}")
    if poor:
        found.append(f"fits miss their points by a median of more than 15 %: {', '.join(poor)}")
    return [Finding(field="calibration", problem=p, is_refusal=False) for p in found]


def _memory(machine: Machine, shape: ModelShape) -> Iterable[Finding]:
    needed = int(shape.dense_bytes + shape.routed_bytes)
    if needed > machine.free_bytes:
        problem = (
            f"does not fit in this machine's memory: needs {size_text(needed)}, "
            f"has {size_text(machine.free_bytes)} free"
        )
        yield Finding(field="model", problem=problem, is_refusal=True)


def _on_gpus(
    machine: Machine, shape: ModelShape, devices: tuple[str, str], memory: GpuMemory
) -> Iterable[Finding]:
    """A gateway in one GPU; experts beside it, in the others, or in the machine's memory."""
    gateway = memory.wanted_on_gateway(Split(LinkTransport.GRPC), 0.0)
    if gateway > memory.free_bytes:
        problem = f"a gateway without experts takes {size_text(int(gateway))} of a GPU, which has "
        problem += size_text(int(memory.free_bytes))
        yield Finding(field="device", problem=problem, is_refusal=True)
    if memory.wanted_on_gateway(ALONE, 0.0) <= memory.free_bytes:
        return
    num_shards = max(machine.num_gpus - 1, 0)
    if devices[1] == CPU:
        needed, has = shape.routed_bytes, float(machine.free_bytes)
        field, where = "model", "this machine's memory"
    else:
        split = Split(LinkTransport.NCCL, 1, max(num_shards, 1))
        needed = memory.shard(split)
        has = memory.shard_free_bytes if num_shards else 0.0
        field, where = "shard_device", f"each of {num_shards} other GPU(s)"
    if needed > has:
        problem = f"experts take {size_text(int(needed))}, more than the {size_text(int(has))} in "
        problem += f"{where}, and do not fit beside a gateway on its GPU"
        yield Finding(field=field, problem=problem, is_refusal=True)


def _nccl(machine: Machine) -> Iterable[Finding]:
    omission = nccl_omission(machine.num_gpus, machine.nccl_problem)
    if omission:
        problem = f"NCCL was not measured, so that auto will not choose it: {omission}"
        yield Finding(field="transport", problem=problem, is_refusal=False)


def _ports(machine: Machine, port_by_field: Mapping[str, int]) -> Iterable[Finding]:
    for field, port in port_by_field.items():
        if not machine.is_port_free.get(port, True):
            yield Finding(field=field, problem=f"port {port} is in use", is_refusal=True)


def _sharing(machine: Machine) -> Iterable[Finding]:
    if machine.shared_memory_problem:
        problem = f"shared memory is not usable ({machine.shared_memory_problem})"
        yield Finding(field="transport", problem=f"{problem}: frames go by gRPC", is_refusal=False)
