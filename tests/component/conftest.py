"""One shard of the tiny checkpoint on loopback, and what it must answer; one server that speaks."""

import pytest

from helpers.cluster import Shards
from helpers.demo_server import demo_server
from helpers.exchange_frames import all_experts
from helpers.fixture_models import checkpoint, topology
from helpers.gateway_process import speaking_settings
from router.exchange.grpc_transport import GrpcTransport
from router.gateway.host import GatewayHost


@pytest.fixture(scope="module")
def bank():
    return all_experts()


@pytest.fixture(scope="module")
def shape():
    return topology(checkpoint().config)


@pytest.fixture(scope="module")
def shards(shape):
    shards = Shards(shape)
    yield shards
    shards.close()


@pytest.fixture
def stream_frames(monkeypatch):
    """Frames that went by the stream."""
    sent = []
    send = GrpcTransport.send

    def count(self, frame):
        sent.append(frame)
        send(self, frame)

    monkeypatch.setattr(GrpcTransport, "send", count)
    return sent


@pytest.fixture(scope="session")
def speaking():
    """The demo's model behind HTTP and gRPC: one server for all tests with real clients."""
    with demo_server() as server:
        yield server


@pytest.fixture(scope="module")
def client(speaking):
    """OpenAI's client of that server."""
    import openai

    with openai.OpenAI(base_url=f"{speaking.http}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def options(speaking):
    """Of every request to it; the answers are short, and always the same."""
    return {"model": speaking.model, "temperature": 0}


@pytest.fixture(scope="module")
def standing():
    """A gateway of the demo's model in this process."""
    host = GatewayHost(speaking_settings(0), None)
    yield host
    host.stop()
