"""Small values for the chart, and questions to the server whose pods ``helpers.pods`` runs."""

import json
import subprocess
import sys

from helpers.ray_hosts import CLIENT

NUM_TOKENS, SEED = 300, 5
FAULT_AFTER = 30  # tokens
# Two shards on two nodes, each expert on both; Ray gives a silent node up after 3 s.
SMALL_VALUES = {
    "shards__replicas": 2,
    "shards__cores": 1,
    "transport": "grpc",
    "expertCopies": 2,
    "config": {"max_model_len": 2048},
    "gateways__kvMemory": "200MiB",
    "drain__deadlineSeconds": 3,
    "ray__headPatienceSeconds": 15,
    "ray__healthCheck": {"periodMs": 500, "timeoutMs": 1000, "failureThreshold": 3},
}


def ask(pods, *arguments):
    """``stream_client.py`` beside the head: every line of its output as a value."""
    head = pods["head-0"]
    target = f"{head.host.address}:9000"
    command = [sys.executable, CLIENT, arguments[0], target, *map(str, arguments[1:])]
    process = head.host.popen(command, head.client_env(), stdout=subprocess.PIPE, text=True)
    yield from map(json.loads, process.stdout)
    assert process.wait(60) == 0


def stream(pods, fault=None):
    """The tokens of one request; ``fault`` strikes meanwhile."""
    tokens = []
    for event in ask(pods, "generate", NUM_TOKENS, SEED):
        tokens += event["tokens"]
        if fault is not None and len(tokens) >= FAULT_AFTER:
            fault()
            fault = None
    assert fault is None, "the stream was shorter than that"
    return tokens


def homes(pods):
    """Name of the pod that holds each part."""
    names = {pod.host.address: name for name, pod in pods.items()}
    hosts = {part["id"]: part["address"].rpartition(":")[0] for part in ask(pods, "parts")}
    return {part: names[host] for part, host in hosts.items()}
