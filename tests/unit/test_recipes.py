"""deploy/ray: what Ray's own validators say of it."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cluster.application import settings_of
from cluster.ingress.environment import haproxy_behaviour
from cluster.ingress.existing import SERVICERS
from router.api.inputs import ApiLimits

RECIPES = Path(__file__).parents[2] / "deploy" / "ray"

# In a process of its own: an import of ``ray.serve`` fixes the kind of proxy, and warns.
VALIDATE = """
import json, sys, yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import start
from ray.serve.schema import ServeDeploySchema
cluster, serve = (yaml.safe_load(open(path)) for path in sys.argv[1:])
prepared = prepare_config(cluster)
validate_config(prepared)
options = [name for parameter in start.params for name in parameter.opts]
told = ServeDeploySchema.model_validate(serve).model_dump(mode="json", exclude_unset=True)
print(json.dumps({"cluster": prepared, "start_options": options, "serve": told}))
"""


@pytest.fixture(scope="module")
def validated():
    files = [str(RECIPES / name) for name in ("cluster.yaml", "serve.yaml")]
    command = [sys.executable, "-W", "ignore", "-c", VALIDATE, *files]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_cluster_file_is_valid_and_its_ray_start_commands_have_real_options(validated):
    told, known = validated["cluster"], set(validated["start_options"])
    written = yaml.safe_load((RECIPES / "cluster.yaml").read_text())
    for kind in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert told[kind] == written[kind]  # Ray's defaults are not added
        words = shlex.split(told[kind][-1].replace(";", " ; "))
        used = [word.partition("=")[0] for word in words if word.startswith("--")]
        assert len(used) > 5
        assert set(used) <= known


def test_the_serve_file_is_what_serve_and_the_application_take(validated):
    told = validated["serve"]
    [app] = told["applications"]
    assert app["import_path"] == "cluster.application:build"
    assert settings_of(app["args"]).shards == 2
    assert tuple(told["grpc_options"]["grpc_servicer_functions"]) == SERVICERS
    assert told["http_options"]["host"] == "127.0.0.1"


def test_the_variables_of_serve_are_those_of_a_server_of_ours_and_of_the_chart():
    lines = (RECIPES / "serve.env").read_text().splitlines()
    told = [line for line in lines if not line.startswith("#")]
    wanted = haproxy_behaviour(ApiLimits().max_body_bytes, is_scaled=True)
    assert dict(line.split("=", 1) for line in told) == wanted
    chart = RECIPES.parent / "helm" / "galerne" / "serve.env"
    assert chart.read_text().splitlines() == told
