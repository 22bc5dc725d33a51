"""Values of the Helm chart: what they mean for the settings, and how wrong ones are refused."""

import json
import re
from itertools import pairwise

import pytest
import yaml

from cluster.config import ServeConfig, load_config
from helpers.helm import CHART, EXAMPLES, HelmError, find, pod_templates, render

VALUES = CHART / "values.yaml"
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
# Settings that the chart makes of other values, or that make no sense in a pod.
FROM_VALUES = {
    *("model", "shards", "gateways", "replicas", "mode", "ttft_p95_s", "inter_token_p95_s"),
    *("max_nodes", "nodes", "idle_to_zero_s", "transport", "host", "http_port", "grpc_port"),
    *("address", "ray_head", "await_nodes", "ray_storage", "kv_memory", "served_model_name"),
    *("api_keys_file", "admin_keys_file", "tls", "internal_tls", "dashboard_port"),
    *("insecure_network", "drain_s", "start_timeout_s"),
}


def settings(*files, tmp_path, **values):
    """What `galerne serve` makes of the rendered galerne.yaml."""
    made = render(*files, **values)
    text = find(made, "ConfigMap", "demo-galerne")["data"]["galerne.yaml"]
    file = tmp_path / "galerne.yaml"
    file.write_text(text)
    has_head = "ray_head" in yaml.safe_load(text)
    return load_config(file, {"ray_head_host": "10.0.0.1"} if has_head else {})


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda path: path.stem)
def test_the_settings_of_every_example_are_taken(file, tmp_path):
    assert settings(file, tmp_path=tmp_path).start_timeout_s >= 600


def test_shards_in_pods_of_their_own_take_a_core_each(tmp_path):
    told = settings(tmp_path=tmp_path, shards__replicas=3, shards__cores=4)
    assert (told.shards, told.gateways, told.await_nodes) == (12, 1, 4)
    assert (told.ray_head.num_cpus, told.ray_head.role) == (2, "gateway")
    assert told.insecure_network is True


def test_with_gateways_in_pods_of_their_own_the_head_holds_none(tmp_path):
    told = settings(tmp_path=tmp_path, gateways__replicas=2, shards__replicas=0)
    assert (told.gateways, told.shards, told.await_nodes) == (2, None, 2)
    assert (told.ray_head.num_cpus, told.ray_head.role) == (0, None)


def test_one_pod_alone_opens_no_ray_and_no_network(tmp_path):
    told = settings(tmp_path=tmp_path, shards__replicas=0)
    assert (told.ray_head, told.await_nodes, told.insecure_network) == (None, None, False)


def test_mode_auto_may_ask_kuberay_for_what_the_groups_allow(tmp_path):
    told = settings(
        tmp_path=tmp_path,
        deployment="rayservice",
        mode="auto",
        shards__maxReplicas=5,
        shards__memory="10G",
    )
    [shards] = told.nodes
    assert (shards.role, shards.most, shards.cores, shards.memory_bytes) == ("shard", 5, 2, 9e9)


def test_other_settings_pass_through_and_the_charts_own_win(tmp_path):
    told = settings(tmp_path=tmp_path, config={"max_model_len": 4096, "speculative": "off"})
    assert (told.max_model_len, told.speculative) == (4096, "off")


def test_every_setting_of_galerne_serve_can_be_set():
    passed_on = set(SCHEMA["properties"]["config"]["properties"])
    assert passed_on | FROM_VALUES == set(ServeConfig.model_fields)
    assert not passed_on & FROM_VALUES


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"shards__replicas": -1}, "at '/shards/replicas': minimum: got -1, want 0"),
        ({"mode": "quick"}, "at '/mode': value must be one of 'latency', 'throughput', 'auto'"),
        ({"transport": "rdma"}, "at '/transport': value must be one of"),
        ({"config": {"trusted_network": "grpc"}}, "at '/config/trusted_network': value must be"),
        ({"modle": {}}, "additional properties 'modle' not allowed"),
        ({"config": {"max_modle_len": 9}}, "additional properties 'max_modle_len' not allowed"),
        ({"config": {"experts": "int2"}}, "at '/config/experts': value must be one of"),
        ({"head__memory": "4 GB"}, "at '/head/memory'"),
        ({"image__digest": "latest"}, "at '/image/digest'"),
        ({"gateways__kvMemory": "lots"}, "at '/gateways/kvMemory'"),
        ({"probes__head__readiness__httpGet": {}}, "'httpGet' not allowed"),
        ({"model__source": "pvc"}, "model.pvc.claimName: is needed with model.source=pvc"),
        ({"model__path": "x"}, "model.path: the embedded model has none"),
        ({"expertCopies": 9}, "expertCopies: 9 copies need as many shards, there are 4"),
        ({"transport": "local"}, "transport: local keeps the experts in the gateway"),
        ({"shards__maxReplicas": 4}, "shards.maxReplicas: pods come and go with deployment="),
        ({"shards__minReplicas": 4}, "shards.minReplicas: 4 is more than maxReplicas 2"),
        ({"mode": "auto", "shards__processes": 4}, "shards.processes: is what mode auto chooses"),
        ({"deployment": "rayservice", "tls__mode": "secret"}, "tls.mode: with deployment="),
        ({"gcsFaultTolerance__backend": "redis"}, "redis needs deployment=rayservice"),
        ({"tls__mode": "certManager"}, "certManager.issuerRef.name: is needed"),
        ({"tls__clientCaSecret": "ca"}, "clients show certificates with TLS only"),
        ({"ingress__enabled": True}, "ingress.enabled needs a host"),
        ({"gatewayApi__enabled": True}, "gatewayApi.parentRefs: is needed"),
        ({"auth__apiKeysSecret": "keys"}, "auth.testKey: helm test needs a key"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_a_wrong_value_is_refused_by_name(values, words):
    with pytest.raises(HelmError) as refused:
        render(**values)
    assert words in str(refused.value)


def test_every_value_has_a_comment():
    bare = []
    lines = VALUES.read_text().splitlines()
    for before, line in pairwise(lines):
        is_key = re.match(r"^ *[A-Za-z]\w*:", line)
        opens = re.match(r"^ *[A-Za-z]\w*:$", before)  # of a mapping: its comment is above it
        if is_key and not before.strip().startswith("#") and not opens:
            bare.append(line)
    # Fields of Kubernetes' own.
    assert [line.split(":")[0].strip() for line in bare] == UNCOMMENTED


UNCOMMENTED = [
    *("limits", "limits"),
    *("runAsUser", "runAsGroup", "fsGroup", "fsGroupChangePolicy", "seccompProfile"),
    *("readOnlyRootFilesystem", "capabilities"),
]


def test_schema_and_values_have_the_same_keys():
    def keys(schema, values, where=""):
        if "$ref" in schema:
            schema = SCHEMA["definitions"][schema["$ref"].rpartition("/")[2]]
        fields = schema.get("properties")
        if fields is None or not isinstance(values, dict) or where in LOOSE:
            return
        missing = set(values) ^ set(fields) - {"global"}
        assert not missing or "/probes/" in where, (where, missing)
        for key, value in values.items():
            keys(fields[key], value, f"{where}/{key}")

    keys(SCHEMA, yaml.safe_load(VALUES.read_text()))


LOOSE = {
    *("/config", "/model/fetchResources", "/autoscaling/resources"),
    *("/head/resources", "/gateways/resources", "/shards/resources"),
}


def test_gpus_are_asked_for_by_the_pods_that_hold_them():
    pods = pod_templates(render(shards__gpu={"count": 2}, gateways__replicas=1))
    asked = {
        component: pod["spec"]["containers"][0]["resources"]["limits"].get("nvidia.com/gpu")
        for component, pod in pods.items()
    }
    assert asked == {"head": None, "gateway": None, "shard": 2, "test": None}
