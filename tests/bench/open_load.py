"""Requests to a running server over gRPC: at times of their own, or so many streams at once.

    python -m tests.bench.open_load --grpc HOST:PORT --kind poisson --rate 2 --seconds 30
    python -m tests.bench.open_load --grpc HOST:PORT --streams 16 --seconds 20

Open loop: a request is sent when it is due, whatever has become of the earlier ones, and its times
count from then. Prompts are random tokens, exactly as long as asked, and no two begin alike; the
answers have exactly the length asked for. One process with one event loop: it shares the server's
cores, and says how much of them it took. From Python: ``LoadProcess(address, Plan(...)).wait()``.
"""

import argparse
import asyncio
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from itertools import count, cycle

import grpc

from cluster.simulator.workload import Arrival
from galerne.v1 import inference_pb2 as pb
from galerne.v1 import inference_pb2_grpc
from tests.bench import workloads
from tests.bench.load_result import Answer, LoadResult

_FIRST_WORD = 1000  # token ids below are control tokens
_NUM_CHANNELS = 8  # a proxy lets 100 streams or so through each
_START_S = 60.0


@dataclass(kw_only=True)
class Plan:
    """What is sent. With ``streams``: in a closed loop, lengths of ``arrivals`` in turn."""

    arrivals: list[Arrival]
    streams: int | None = None  # so many at once, each followed by another until ``seconds``
    seconds: float = 0.0  # of a closed loop: none is begun later
    seed: int = 1  # of prompts and sampling
    num_distinct: int | None = None  # requests, which repeat; unset: all differ
    shared_prefix: int = 0  # tokens with which all prompts begin
    temperature: float = 0.0
    timeout_s: float = 300.0  # a request; later it has failed
    begin_unix_s: float | None = None  # several clients begin together


class Driver:
    """Sends a plan's requests on one event loop."""

    def __init__(self, address, plan):
        self._address, self._plan = address, plan
        self._stubs, self._vocabulary = cycle(()), range(0)

    async def run(self):
        """All of them, until the last one has ended."""
        # Each with a connection of its own.
        options = [("grpc.use_local_subchannel_pool", 1)]
        channels = [grpc.aio.insecure_channel(self._address, options) for _ in range(_NUM_CHANNELS)]
        try:
            async with asyncio.timeout(_START_S):
                await asyncio.gather(*(channel.channel_ready() for channel in channels))
            stubs = [inference_pb2_grpc.InferenceServiceStub(channel) for channel in channels]
            model = await stubs[0].GetModelInfo(pb.GetModelInfoRequest(), timeout=_START_S)
            self._vocabulary = range(_FIRST_WORD, model.vocab_size)
            self._stubs = cycle(stubs)
            if self._plan.begin_unix_s is not None:
                await asyncio.sleep(max(0.0, self._plan.begin_unix_s - time.time()))
            began_unix_s, self._began_s = time.time(), time.monotonic()
            answers = await (self._closed() if self._plan.streams else self._open())
        finally:
            await asyncio.gather(*(channel.close() for channel in channels))
        return LoadResult(answers, began_unix_s, time.process_time())

    def _now_s(self):
        return time.monotonic() - self._began_s

    async def _open(self):
        async with asyncio.TaskGroup() as tasks:
            started = []
            for number, arrival in enumerate(self._plan.arrivals):
                await asyncio.sleep(max(0.0, arrival.at_s - self._now_s()))
                started.append(tasks.create_task(self._one(number, arrival, arrival.at_s)))
        return [task.result() for task in started]

    async def _closed(self):
        numbers, lengths, answers = count(), cycle(self._plan.arrivals), []

        async def work():
            while (now_s := self._now_s()) < self._plan.seconds:
                answers.append(await self._one(next(numbers), next(lengths), now_s))

        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._plan.streams):
                tasks.create_task(work())
        return answers

    def _request(self, number, arrival):
        plan = self._plan
        seed = plan.seed * 1_000_003 + number % (plan.num_distinct or sys.maxsize)
        length, shared = arrival.prompt_tokens, min(plan.shared_prefix, arrival.prompt_tokens)
        ids = random.Random(plan.seed).choices(self._vocabulary, k=shared)
        ids += random.Random(seed).choices(self._vocabulary, k=length - shared)
        sampling = pb.SamplingParams(
            temperature=plan.temperature,
            seed=seed,
            max_tokens=arrival.output_tokens,
            ignore_eos=True,
        )
        return pb.GenerateRequest(token_ids=pb.TokenIds(ids=ids), sampling=sampling)

    async def _one(self, number, arrival, due_s):
        answer = Answer(number, arrival.prompt_tokens, arrival.output_tokens, due_s)
        request = self._request(number, arrival)
        tokens, last_s = [], None
        answer.late_s = self._now_s() - due_s
        try:
            call = next(self._stubs).Generate(request, timeout=self._plan.timeout_s)
            async for event in call:
                if event.HasField("tokens"):
                    now_s = self._now_s()
                    _add_tokens(answer, tokens, event.tokens, now_s, last_s)
                    last_s = now_s
                elif event.HasField("finished"):
                    answer.error = event.finished.error
        except grpc.aio.AioRpcError as error:
            answer.error = f"{error.code().name}: {error.details()}"
        answer.completion_s = self._now_s() - due_s
        answer.digest = hashlib.sha256(repr(tokens).encode()).hexdigest()
        if not answer.error and len(tokens) != arrival.output_tokens:
            answer.error = f"{len(tokens)} of {arrival.output_tokens} tokens"
        return answer


def _add_tokens(answer, tokens, delta, now_s, last_s):
    if delta.offset != len(tokens):
        raise AssertionError(f"token {delta.offset} came after {len(tokens)}")
    new = len(delta.token_ids)
    if last_s is None:
        answer.ttft_s = now_s - answer.due_s
        answer.gaps_s += [0.0] * (new - 1)
    else:
        answer.gaps_s += [(now_s - last_s) / new] * new
    tokens += delta.token_ids


class LoadProcess:
    """A driver in a process of its own, which begins at once."""

    def __init__(self, address, plan, popen=subprocess.Popen, **options):
        """``popen``: on another host."""
        last_s = max((a.at_s for a in plan.arrivals), default=0.0)
        self._most_s = 2 * _START_S + max(last_s, plan.seconds) + plan.timeout_s
        if plan.begin_unix_s is not None:
            self._most_s += max(0.0, plan.begin_unix_s - time.time())
        # Files, not pipes: a result may be larger than a pipe holds. ``wait`` closes them.
        self._told = tempfile.TemporaryFile()  # noqa: SIM115
        self._said = tempfile.TemporaryFile()  # noqa: SIM115
        self._told.write(json.dumps(asdict(plan)).encode())
        self._told.seek(0)
        command = [sys.executable, "-m", "tests.bench.open_load", "--grpc", address, "--plan"]
        self.process = popen(command, stdin=self._told, stdout=self._said, **options)

    def wait(self):
        """Until its last request has ended."""
        with self._told, self._said:
            try:
                code = self.process.wait(self._most_s)
            finally:
                if self.process.poll() is None:
                    self.process.kill()
                    self.process.wait(10)
            self._said.seek(0)
            assert code == 0, f"the client ended with {code}"
            return decode(json.load(self._said))


def run_load(address, plan, popen=subprocess.Popen, **options):
    """A whole load; its result."""
    return LoadProcess(address, plan, popen, **options).wait()


def decode(told):
    """A result from plain values."""
    answers = [Answer(**answer) for answer in told.pop("answers")]
    return LoadResult(answers=answers, **told)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--grpc", required=True, help="host:port")
    parser.add_argument("--plan", action="store_true", help="JSON of a plan on stdin, raw result")
    parser.add_argument("--streams", type=int, help="closed loop")
    parser.add_argument("--shared-prefix", type=int, default=0, help="tokens alike in all prompts")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--timeout-s", type=float, default=300.0, help="of a request")
    workloads.add_arguments(parser)
    arguments = parser.parse_args()
    if arguments.plan:
        told = json.load(sys.stdin)
        told["arrivals"] = [Arrival(*arrival) for arrival in told["arrivals"]]
        result = asyncio.run(Driver(arguments.grpc, Plan(**told)).run())
        json.dump(asdict(result), sys.stdout)
        return
    plan = Plan(
        arrivals=workloads.from_arguments(arguments),
        streams=arguments.streams,
        seconds=arguments.seconds,
        seed=arguments.seed,
        shared_prefix=arguments.shared_prefix,
        temperature=arguments.temperature,
        timeout_s=arguments.timeout_s,
    )
    result = asyncio.run(Driver(arguments.grpc, plan).run())
    shown = result.summary() | {"client_cpu_s": result.client_cpu_s}
    print(json.dumps(shown, indent=1))


if __name__ == "__main__":
    main()
