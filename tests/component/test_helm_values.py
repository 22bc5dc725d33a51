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


def test_a_rack_with_more_cores_than_experts_gets_a_shard_for_every_expert(tmp_path):
    told = settings(tmp_path=tmp_path, shards__replicas=8, shards__cores=32)
    assert (told.shards, told.await_nodes) == (128, 9)
    assert settings(tmp_path=tmp_path, shards__replicas=8, shards__processes=200).shards == 200


def test_an_amount_of_bytes_may_be_a_number(tmp_path):
    made = render(ray__objectStoreMemory=104857600)
    arguments = pod_templates(made)["shard"]["spec"]["containers"][0]["args"]
    assert "--object-store-memory=104857600" in arguments
    auto = {"deployment": "rayservice", "mode": "auto", "shards__maxReplicas": 5}
    [shards] = settings(tmp_path=tmp_path, shards__memory=10_000_000_000, **auto).nodes
    assert shards.memory_bytes == 9e9


def test_a_head_of_kuberay_drains_the_server_on_the_port_that_it_has():
    made = render(deployment="rayservice", service__grpcPort=50051)
    head = pod_templates(made)["head"]["spec"]["containers"][0]
    [_, _, command] = head["lifecycle"]["preStop"]["exec"]["command"]
    assert "--target 127.0.0.1:50051 " in command


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


ON_GPUS = {"gateways__gpu": {"count": 1}, "gateways__replicas": 1}


def gpus_asked(**values):
    """By component: the limit of the container, requests being the same."""
    found = {}
    for component, pod in pod_templates(render(**values)).items():
        resources = pod["spec"]["containers"][0]["resources"]
        limit = resources["limits"].get("nvidia.com/gpu")
        assert resources["requests"].get("nvidia.com/gpu") == limit
        found[component] = limit
    return found


def test_gpus_are_asked_for_by_the_pods_that_hold_them():
    asked = gpus_asked(**ON_GPUS, shards__gpu={"count": 2})
    assert asked == {"head": None, "gateway": 1, "shard": 2, "test": None}


def test_whoever_states_resources_still_gets_the_gpus():
    own = {"limits": {"memory": "9Gi"}, "requests": {"cpu": 3}}
    [head] = pod_templates(render(shards__replicas=0, head__gpu={"count": 1}, head__resources=own))[
        "head"
    ]["spec"]["containers"]
    assert head["resources"] == {
        "limits": {"memory": "9Gi", "nvidia.com/gpu": 1},
        "requests": {"cpu": 3, "nvidia.com/gpu": 1},
    }


@pytest.mark.parametrize("deployment", ["plain", "rayservice"])
def test_ray_is_told_the_gpus_of_every_pod_and_no_others(deployment):
    made = render(**ON_GPUS, shards__gpu={"count": 2}, deployment=deployment)
    if deployment == "plain":
        told = {
            component: next(
                argument.partition("=")[2]
                for argument in pod["spec"]["containers"][0]["args"]
                if argument.startswith("--num-gpus=")
            )
            for component, pod in pod_templates(made).items()
            if component in ("gateway", "shard")
        }
        text = find(made, "ConfigMap", "demo-galerne")["data"]["galerne.yaml"]
        told["head"] = str(yaml.safe_load(text)["ray_head"]["num_gpus"])
    else:
        cluster = find(made, "RayService")["spec"]["rayClusterConfig"]
        groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
        groups["head"] = cluster["headGroupSpec"]
        told = {name: group["rayStartParams"]["num-gpus"] for name, group in groups.items()}
    assert told == {"head": "0", "gateway": "1", "shard": "2"}


@pytest.mark.parametrize(
    ("values", "devices", "parts"),
    [
        ({}, ("cpu", "cpu"), (1, 4)),
        ({"head__gpu": {"count": 1}}, ("cuda", "cpu"), (1, 4)),
        (ON_GPUS, ("cuda", "cpu"), (1, 4)),
        ({**ON_GPUS, "shards__gpu": {"count": 4}}, ("cuda", "cuda"), (1, 8)),
        ({"shards__replicas": 0, "head__gpu": {"count": 2}}, ("cuda", "cpu"), (2, None)),
        (
            {
                "shards__replicas": 0,
                "head__gpu": {"count": 8},
                "transport": "nccl",
                "shards__processes": 7,
            },
            ("cuda", "cuda"),
            (1, 7),
        ),
    ],
    ids=["no GPU", "in the head", "gateways", "both", "two, no shards", "NCCL in one pod"],
)
def test_parts_compute_where_their_pods_have_gpus(values, devices, parts, tmp_path):
    told = settings(tmp_path=tmp_path, **values)
    assert (told.device, told.shard_device) == devices
    assert (told.gateways, told.shards) == parts


def test_pods_with_gpus_get_the_image_with_cuda_unless_a_tag_is_set():
    def image(**values):
        [found] = {
            container["image"]
            for pod in pod_templates(render(**values)).values()
            for container in pod["spec"]["containers"]
        }
        return found

    assert image() == "galerne:0.1.0"
    assert image(**ON_GPUS) == "galerne:0.1.0-cuda"
    assert image(**ON_GPUS, image__tag="mine") == "galerne:mine"


def test_auto_learns_what_gpus_the_nodes_to_come_will_have(tmp_path):
    told = settings(
        tmp_path=tmp_path,
        **ON_GPUS,
        shards__gpu={"count": 4},
        shards__maxReplicas=3,
        deployment="rayservice",
        mode="auto",
        config={"calibration": "/calibration/gpu.json"},
    )
    assert {(kind.role, kind.gpus) for kind in told.nodes} == {("gateway", 1), ("shard", 4)}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"config": {"device": "cuda"}}, "config.device: cuda needs GPUs in the pods that hold"),
        ({"shards__gpu": {"count": 1}}, "shards on GPUs need gateways on GPUs; set head.gpu.count"),
        ({"gateways__gpu": {"count": 1}}, "gateways live in the head's pod"),
        ({**ON_GPUS, "head__gpu": {"count": 1}}, "head.gpu.count: the head computes nothing"),
        ({**ON_GPUS, "config": {"device": "cpu"}}, "gateways.gpu.count: config.device=cpu would"),
        (
            {**ON_GPUS, "shards__gpu": {"count": 1}, "config": {"shard_device": "cpu"}},
            "shards.gpu.count: config.shard_device=cpu would leave GPUs idle",
        ),
        ({**ON_GPUS, "config": {"shard_device": "cuda"}}, "config.shard_device: cuda: needs GPUs"),
        ({"transport": "nccl"}, "transport: nccl goes from GPU to GPU, gateways are on cpu"),
        ({**ON_GPUS, "transport": "nccl"}, "transport: nccl: needs GPUs in the shards' pods"),
        (
            {"shards__replicas": 0, "head__gpu": {"count": 2}, "transport": "nccl"},
            "shards.processes: must be said with shards on GPUs beside the gateways",
        ),
        (
            {
                "shards__replicas": 0,
                "head__gpu": {"count": 2},
                "transport": "nccl",
                "shards__processes": 2,
            },
            "head.gpu.count: 1 gateways and 2 shards need a GPU each, their pods have 2",
        ),
        (
            {**ON_GPUS, "gateways__processes": 2},
            "gateways.gpu.count: 2 gateways and 0 shards need a GPU each, their pods have 1",
        ),
        (
            {**ON_GPUS, "shards__gpu": {"count": 1}, "shards__processes": 3},
            "shards.gpu.count: 3 shards need a GPU each, their pods have 2",
        ),
        ({"shards__replicas": 0, "shards__gpu": {"count": 1}}, "shards live beside the gateways"),
        ({**ON_GPUS, "mode": "auto"}, "config.calibration: mode auto cannot measure GPUs from"),
        ({"head__gpu": {"count": 1, "resource": "gpu"}}, "at '/head/gpu/resource'"),
        ({"head__gpu": {"count": -1}}, "at '/head/gpu/count'"),
        ({"head__gpu": {"memory": "80Gi"}}, "additional properties 'memory' not allowed"),
    ],
)
def test_gpus_that_contradict_the_parts_are_refused_by_name(values, words):
    with pytest.raises(HelmError) as refused:
        render(**values)
    assert words in str(refused.value)
