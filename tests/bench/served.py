"""A server under test: its streams with their pauses, its parts, and when all of them are well."""

import hashlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import grpc
import psutil

from galerne.v1 import cluster_pb2, cluster_pb2_grpc, inference_pb2_grpc
from galerne.v1 import inference_pb2 as pb
from helpers.serve_process import ServeProcess

TEXTS = ("The Loire ends", "Once upon a time", "How much is 7 plus 5?", "Nantes lies in")


@dataclass
class Stream:
    """What a client saw."""

    token_ids: list
    waits_s: list  # before every token but the first
    error: str = ""

    @property
    def digest(self):
        return hashlib.sha256(repr(self.token_ids).encode()).hexdigest()

    @property
    def pause_s(self):
        return max(self.waits_s, default=0.0)


class Client:
    """Of a server that runs."""

    def __init__(self, address):
        self.grpc = address
        self._channel = grpc.insecure_channel(address)
        self.stub = inference_pb2_grpc.InferenceServiceStub(self._channel)
        self.cluster = cluster_pb2_grpc.ClusterServiceStub(self._channel)

    def close(self):
        self._channel.close()

    def stream(self, seed, num_tokens, on_token=lambda count: None):
        """One request, token by token; hot, and without repetitions."""
        sampling = pb.SamplingParams(
            temperature=1.0,
            repetition_penalty=1.5,
            seed=seed,
            max_tokens=num_tokens,
            ignore_eos=True,
        )
        request = pb.GenerateRequest(text=TEXTS[seed % len(TEXTS)], sampling=sampling)
        seen, last = Stream([], []), None
        try:
            for event in self.stub.Generate(request, timeout=300):
                if event.HasField("tokens"):
                    now = time.monotonic()
                    assert event.tokens.offset == len(seen.token_ids), "a token twice or missing"
                    if last is not None:
                        seen.waits_s.append(now - last)
                    last = now
                    seen.token_ids += event.tokens.token_ids
                    on_token(len(seen.token_ids))
                elif event.HasField("finished"):
                    seen.error = event.finished.error
        except grpc.RpcError as error:
            seen.error = f"{error.code().name}: {error.details()}"
        return seen

    def streams(self, seeds, num_tokens, on_token=lambda count: None):
        """Several at once; ``on_token`` hears the first."""
        with ThreadPoolExecutor(len(seeds)) as threads:
            hear = [on_token, *[lambda count: None] * (len(seeds) - 1)]
            started = [
                threads.submit(self.stream, seed, num_tokens, h)
                for seed, h in zip(seeds, hear, strict=True)
            ]
            return [task.result() for task in started]

    def parts(self):
        return self.stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=30).parts

    def pid(self, name):
        return next(part.pid for part in self.parts() if part.id == name)

    def wait_well(self, timeout_s=120):
        """Until every part of the topology lives, with all its links."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            wanted = self.topology()
            by_id = {part.id: part for part in self.parts()}
            parts = [by_id.get(name) for name in (*wanted.gateways, *wanted.shards)]
            if wanted.stage == "idle" and all(map(_is_well, parts)):
                return
            time.sleep(0.3)
        raise SystemExit("the cluster did not get well")

    def topology(self):
        return self.cluster.GetTopology(cluster_pb2.GetTopologyRequest(), timeout=30)

    def events(self, since_unix_s):
        """All that the controller keeps, as plain values, seconds since a time."""
        found, request = [], cluster_pb2.WatchEventsRequest(after=0)
        try:
            for event in self.cluster.WatchEvents(request, timeout=3):  # it would go on for ever
                at_s = event.time_s - since_unix_s
                found.append({"at_s": at_s, "kind": event.kind, "text": event.text})
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                raise
        return found

    def change(self, timeout_s=300, **wish):
        """Change the topology; seconds until it was done."""
        started = time.monotonic()
        info = self.cluster.SetTopology(cluster_pb2.SetTopologyRequest(**wish), timeout=30)
        target = info.target_epoch
        while info.stage != "idle":
            assert time.monotonic() - started < timeout_s, info.stage
            time.sleep(0.05)
            info = self.topology()
        assert info.epoch >= target, info.last_error  # the autoscaler may have gone on
        return time.monotonic() - started


class Served(Client):
    """``galerne serve`` with a client."""

    def __init__(self, *flags):
        self._process = ServeProcess(*flags, "--http-port", "0", "--grpc-port", "0", timeout=300)
        self._drain = threading.Thread(target=self._read_output, daemon=True)
        self._drain.start()
        super().__init__(self._process.grpc)

    def _read_output(self):
        while chunk := self._process.process.stdout.read1(65536):
            self._process.output = (self._process.output + chunk.decode())[-20000:]

    def family(self):
        """All processes, as they are now."""
        return psutil.Process(self._process.process.pid).children(recursive=True)

    def close(self):
        super().close()
        self._process.process.terminate()
        self._process.process.wait(60)


def _is_well(part):
    if part is None or not part.is_live or part.unready_reason:
        return False
    return all(state == "up" for state in part.links.values())
