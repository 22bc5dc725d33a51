"""A gateway with its own experts, of the tiny checkpoint, in a process of its own."""

import sys

from helpers.part_process import PartProcess, serve_until_input_ends

TOKEN = "test-token"
NAME = "tiny-native-bf16"


class GatewayProcess(PartProcess):
    """Serves as ``gateway-INDEX``."""

    def __init__(self, index=0):
        super().__init__(__file__, index)


def gateway_settings(index=0, **changes):
    from helpers.fixture_models import FIXTURES, checkpoint, topology
    from router.gateway.settings import GatewaySettings

    fields = {
        "gateway_id": f"gateway-{index}",
        "checkpoint": FIXTURES / NAME,
        "model_name": "tiny",
        "numerics": "bf16",
        "topology": topology(checkpoint(NAME).config),
        "cluster_token": TOKEN,
        "max_model_len": 1024,
        "kv_bytes": 32 << 20,
    }
    return GatewaySettings(**fields | changes)


def main():
    from router.gateway.host import GatewayHost

    serve_until_input_ends(GatewayHost(gateway_settings(int(sys.argv[1])), None).address)


if __name__ == "__main__":
    main()
