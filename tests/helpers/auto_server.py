"""``galerne serve --mode auto`` on a made-up machine, and what tests ask it."""

import yaml

from cluster.config import load_config
from cluster.demo import MODEL_DIRECTORY
from cluster.doctor.store import save
from cluster.plan import held_formats
from cluster.planning.shape import shape_of
from galerne.v1 import cluster_pb2 as cluster
from galerne.v1 import cluster_pb2_grpc, inference_pb2_grpc
from galerne.v1 import inference_pb2 as pb
from helpers.calibrations import stored
from helpers.serve_process import ServeProcess
from shards.checkpoint.open import open_checkpoint

QUICK = {"tick_s": 0.5, "window_s": 6.0, "cool_down_s": 1.0, "hold_s": 2.0, "settle_s": 1.0}


def embedded():
    """Shape and formats of the embedded model."""
    model = open_checkpoint(MODEL_DIRECTORY).config
    experts, dense = held_formats(load_config(None, {}), model)
    return {"shape": shape_of(model, experts, dense), "experts": experts, "dense": dense}


def serve_auto(directory, *flags, **changes):
    """A running server; ``changes``: what its calibration has instead of ``stored()``'s."""
    save(stored(**embedded(), **changes), directory / "calibration.json")
    (directory / "auto.yaml").write_text(yaml.safe_dump({"autoscaler": QUICK}))
    return ServeProcess(
        *("--mode", "auto", "--max-model-len", "2048", *flags),
        *("--http-port", "0", "--grpc-port", "0"),
        *("--calibration", str(directory / "calibration.json")),
        *("--config", str(directory / "auto.yaml")),
    )


def tokens(channel, num_tokens=40):
    """The answer, which is always the same."""
    stub = inference_pb2_grpc.InferenceServiceStub(channel)
    sampling = pb.SamplingParams(temperature=1.0, seed=5, max_tokens=num_tokens, ignore_eos=True)
    asked = pb.GenerateRequest(text="The Loire ends", sampling=sampling)
    return list(stub.GenerateOnce(asked, timeout=120).choices[0].token_ids)


def topology(channel):
    """What serves, and how far a change is."""
    stub = cluster_pb2_grpc.ClusterServiceStub(channel)
    return stub.GetTopology(cluster.GetTopologyRequest(), timeout=20)


def decisions(channel):
    """All that acted, the oldest first."""
    stub = cluster_pb2_grpc.ClusterServiceStub(channel)
    return list(stub.ListDecisions(cluster.ListDecisionsRequest(), timeout=20).decisions)
