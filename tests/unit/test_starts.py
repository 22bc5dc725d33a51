"""What the processes of a server load and start: no more than they need."""

import subprocess
import sys

import pytest

from cluster.lean_ray import replace_agent
from router.gateway.settings import DTYPES
from router.gateway.sizes import BLOCK_SIZE, NUMBER_BYTES
from router.model.cache_size import block_bytes
from router.model.kv_cache import PagedLatentCache
from shards.checkpoint.presets import preset
from shards.kernels.native import library
from shards.kernels.native.families import FAMILY_VARIABLE, has_kernels

DRIVER = """
import cluster.cli, cluster.launch, cluster.ingress.app, cluster.ingress.starting
from cluster.config import load_config
from cluster.scaling import plan_scaled
assert plan_scaled(load_config(None, {"shards": 2}), "app", (), None).weight_bytes > 0
"""


@pytest.mark.parametrize(
    "code", [DRIVER, "import cluster.actors.controller", "import cluster.ingress.deployment"]
)
def test_no_process_of_a_server_loads_torch_that_does_not_compute(code):
    """The plan reads a whole checkpoint's headers, and scales, before Ray is started."""
    code += "\nimport sys; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_worker_process_has_no_torch_before_an_actor_has_set_its_environment():
    """Else the number of threads would be whatever the machine has."""
    code = (
        "import cluster.actors.gateway, cluster.actors.shard, ray._private.workers.default_worker, "
        "sys; sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("numerics", DTYPES)
def test_a_plan_without_torch_has_the_sizes_that_torch_computes_with(numerics):
    config, dtype = preset("tiny"), DTYPES[numerics]
    assert NUMBER_BYTES[numerics] == dtype.itemsize
    cache = PagedLatentCache(config, 3, BLOCK_SIZE, dtype)
    planned = block_bytes(config, BLOCK_SIZE, NUMBER_BYTES[numerics])
    assert sum(cache.layer(i).nbytes for i in range(config.num_layers)) == 3 * planned


@pytest.mark.parametrize("family", ["", "portable", "torch"])
def test_a_plan_without_torch_finds_the_kernels_that_a_gateway_will_have(family, monkeypatch):
    monkeypatch.setenv(FAMILY_VARIABLE, family)
    uncached = library.native_kernels.__wrapped__
    monkeypatch.setattr(library, "native_kernels", uncached)
    for num_inputs in (64, 63):
        for numerics, dtype in DTYPES.items():
            found = library.kernels_for(dtype, num_inputs)
            assert has_kernels(numerics, num_inputs) == (found is not None)


def test_only_the_agent_of_a_raylets_command_is_replaced():
    command = ["/ray/raylet", "--node_id=ab", "--dashboard_agent_command=python a.py", "--head"]
    [first, node, agent, last] = replace_agent(command)
    assert [first, node, last] == ["/ray/raylet", "--node_id=ab", "--head"]
    assert agent.startswith("--dashboard_agent_command=")
    assert agent.endswith("sleep infinity")
