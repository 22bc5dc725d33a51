"""A gRPC client as its own process, for another host: one JSON value a line.

stream_client.py parts TARGET
stream_client.py generate TARGET NUM_TOKENS SEED
"""

import json
import sys
import time

import grpc

from galerne.v1 import inference_pb2 as pb
from galerne.v1 import inference_pb2_grpc

_TIMEOUT_S = 100.0


PROMPT = (1, 1200, 1300, 1400)


def sampling(num_tokens, seed):
    """Of the request that every test of hosts makes: its tokens do not repeat themselves."""
    return {
        "temperature": 1.0,
        "repetition_penalty": 1.5,
        "seed": int(seed),
        "max_tokens": int(num_tokens),
        "ignore_eos": True,
    }


def generate(stub, num_tokens, seed):
    """Token ids of every event, and the seconds since the one before."""
    request = pb.GenerateRequest(
        token_ids=pb.TokenIds(ids=PROMPT), sampling=pb.SamplingParams(**sampling(num_tokens, seed))
    )
    last = time.monotonic()
    for event in stub.Generate(request, timeout=_TIMEOUT_S):
        if event.HasField("tokens"):
            now = time.monotonic()
            yield {"tokens": list(event.tokens.token_ids), "wait_s": now - last}
            last = now


def parts(stub):
    """Where the parts of the server are."""
    for part in stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=20).parts:
        names = ("id", "kind", "address", "node", "pid", "restarts", "is_live")
        yield {name: getattr(part, name) for name in names} | {"links": dict(part.links)}


def main():
    what, target, *arguments = sys.argv[1:]
    with grpc.insecure_channel(target) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        for value in {"generate": generate, "parts": parts}[what](stub, *arguments):
            print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main()
