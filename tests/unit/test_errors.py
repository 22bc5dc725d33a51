"""The error tree: every error survives a pickle, and its status is a gRPC status."""

import importlib
import inspect
import pickle
import pkgutil

import grpc
import pytest

import galerne
import router
import shards
from galerne.errors import GalerneError

SAMPLES = {"str": "x", "int": 3, "float": 0.5, "object": "value", "bool": True, "str | None": None}


def load(name):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != "triton":  # GPU kernels raise no errors of their own
            raise


def every_error():
    for package in (galerne, shards, router):
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            if "_pb2" not in module.name:
                load(module.name)
    found, todo = [], [GalerneError]
    while todo:
        kind = todo.pop()
        found.append(kind)
        todo += kind.__subclasses__()
    return sorted(set(found) - {GalerneError}, key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_an_error_survives_a_pickle_and_has_a_grpc_status(kind):
    parameters = list(inspect.signature(kind).parameters.values())
    named = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "self"]
    error = kind(*(SAMPLES[p.annotation] for p in named))
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error)
    assert vars(again) == vars(error)
    assert grpc.StatusCode[kind.status]
