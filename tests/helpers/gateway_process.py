"""A gateway with its own experts, of a small checkpoint, in a process of its own."""

import sys
import threading
from contextlib import contextmanager
from pathlib import Path

from helpers.part_process import PartProcess, serve_until_input_ends

TOKEN = "test-token"
NAME = "tiny-native-bf16"
DEMO_MODEL = Path(__file__).parents[2] / "cluster/demo/model"


class GatewayProcess(PartProcess):
    """Serves as ``gateway-INDEX``; with ``speaks`` the demo's model, which has a tokenizer.

    Before step ``hold_at`` it waits for ``go_on``, so that a long request is still running there
    when a test comes to end it, however slow the test is.
    """

    def __init__(self, index=0, *, speaks=False, hold_at=-1):
        super().__init__(__file__, index, int(speaks), hold_at)


class Directory:
    """A roster that the test changes."""

    def __init__(self, **gateways):
        self.gateways = gateways
        self.is_settled = True

    async def roster(self, *, with_metrics=False):
        from router.gateway.roster import Roster

        return Roster(gateways=dict(self.gateways), is_settled=self.is_settled)


def speaking_settings(index=0, **changes):
    """Of the demo's model."""
    from helpers.fixture_models import topology
    from shards.checkpoint.open import open_checkpoint

    shape = topology(open_checkpoint(DEMO_MODEL).config)
    return gateway_settings(index, checkpoint=DEMO_MODEL, topology=shape, **changes)


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

    index, speaks, hold_at = map(int, sys.argv[1:])
    settings = speaking_settings(index) if speaks else gateway_settings(index)
    host = GatewayHost(settings, None)
    with held_up(host.engine, hold_at) as go_on:
        serve_until_input_ends(host.address, go_on)


@contextmanager
def held_up(engine, at_step):
    """The engine waits before a step until what this yields is called, or the end."""
    run_plan, may_go_on = engine._runner.run_plan, threading.Event()

    def held(step, plan):
        if step == at_step:
            may_go_on.wait()
        return run_plan(step, plan)

    engine._runner.run_plan = held
    try:
        yield may_go_on.set
    finally:
        may_go_on.set()
        engine._runner.run_plan = run_plan


if __name__ == "__main__":
    main()
