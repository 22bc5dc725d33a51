"""A gateway for ingresses of the tests' own."""

import pytest

from helpers.fixture_models import topology
from helpers.ingress_server import MODEL, TOKEN
from router.gateway.host import GatewayHost
from router.gateway.settings import GatewaySettings
from shards.checkpoint.presets import preset
from shards.checkpoint.random_checkpoint import write_random_checkpoint


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "tiny"
    config = preset("tiny", num_layers=2)
    write_random_checkpoint(path, config, seed=1)
    settings = GatewaySettings(
        gateway_id="gateway-0",
        checkpoint=path,
        model_name=MODEL,
        numerics="bf16",
        topology=topology(config),
        cluster_token=TOKEN,
        max_model_len=16384,
        kv_bytes=64 << 20,
    )
    host = GatewayHost(settings, None)
    yield host
    host.stop()
