"""The Helm chart by the real Helm, 4 and 3: what it renders, and what a cluster would say of it."""

import copy
from functools import cache

import pytest
import yaml

from cluster.application import build, settings_of
from helpers.helm import CHART, EXAMPLES, ROOT, containers, find, pod_templates, render, run_helm
from helpers.kubernetes_schemas import problems
from helpers.manifest_snapshots import UPDATE_VARIABLE, compared

VERSIONS = (4, 3)
WORKERS = ("gateway", "shard")
NAMES = ("defaults", *(path.stem for path in EXAMPLES))
FROM_FIELD = {"fieldRef": {"fieldPath": "metadata.name"}}
# What the examples leave out.
VARIANTS = {
    "rayservice": {"deployment": "rayservice", "gateways__replicas": 2},
    "rocksdb by claim, KubeRay": {
        "deployment": "rayservice",
        "gcsFaultTolerance__rocksdb__claimName": "state",
    },
    "no probes, no account": {
        "probes__head__startup__enabled": False,
        "probes__worker__liveness__enabled": False,
        "serviceAccount__create": False,
    },
    "asked by gRPC": {"probes__handler": "grpc"},
    "asked by a program": {"probes__handler": "exec"},
    "S3 without keys": {"model__source": "s3", "model__s3__uri": "s3://bucket/model"},
    "more of everything": {
        "extraEnv": [{"name": "A", "value": "b"}],
        "shards__extraEnv": [
            {"name": "C", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
        ],
        "shards__podAnnotations": {"a": "b"},
        "shards__affinity": {"nodeAffinity": {}},
        "schedulerName": "other",
        "image__pullSecrets": ["registry"],
        "service__type": "NodePort",
        "gateways__processes": 3,
    },
}


@cache
def _rendered(name, version):
    files = [path for path in EXAMPLES if path.stem == name]
    return render(*files, version=version)


def rendered(name, version=4):
    return copy.deepcopy(_rendered(name, version))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", NAMES)
def test_helm_finds_nothing_to_complain_about(name, version):
    files = [f"--values={path}" for path in EXAMPLES if path.stem == name]
    assert "0 chart(s) failed" in run_helm("lint", "--strict", CHART, *files, version=version)


@pytest.mark.parametrize("version", VERSIONS)
def test_helm_packages_the_chart(tmp_path, version):
    run_helm("package", CHART, "--destination", tmp_path, version=version)
    [package] = tmp_path.glob("galerne-*.tgz")
    shown = run_helm("show", "values", package, version=version)
    assert yaml.safe_load(shown) == yaml.safe_load((CHART / "values.yaml").read_text())


@pytest.mark.parametrize("name", NAMES)
def test_a_cluster_would_take_every_manifest(name):
    found = {m["metadata"]["name"]: problems(m) for m in rendered(name)}
    assert not any(found.values()), found


@pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS.keys())
def test_a_cluster_would_take_what_other_values_make(values):
    found = {m["metadata"]["name"]: problems(m) for m in render(**values)}
    assert not any(found.values()), found


@pytest.mark.parametrize(
    ("kind", "where", "field"),
    [
        ("StatefulSet", ("spec", "template", "spec"), "terminationGracePeriod"),
        ("Service", ("spec",), "publishNotReady"),
        ("ServiceMonitor", ("spec",), "selectors"),
        ("RayService", ("spec", "rayClusterConfig"), "autoscalerOption"),
        ("RayService", ("spec", "rayClusterConfig", "headGroupSpec", "template", "spec"), "volume"),
    ],
)
def test_a_misspelt_field_would_be_found(kind, where, field):
    name = "gpu-cluster" if kind == "RayService" else "gpu-gateway-cpu-shards"
    manifest = next(m for m in rendered(name) if m["kind"] == kind)
    assert not problems(manifest)
    inner = manifest
    for key in where:
        inner = inner[key]
    inner[field] = 30
    assert field in str(problems(manifest))


@pytest.mark.parametrize("name", NAMES)
def test_helm_3_and_helm_4_render_the_same(name):
    def without_token(manifests):
        for manifest in manifests:
            if manifest["kind"] == "Secret":
                assert len(manifest["data"].pop("token")) > 60
        return sorted(manifests, key=lambda m: (m["kind"], m["metadata"]["name"]))

    assert without_token(rendered(name, 3)) == without_token(rendered(name, 4))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_rendered_is_what_was_looked_at(name):
    got, expected = compared(name, rendered(name))
    assert got == expected, f"look at the difference; with {UPDATE_VARIABLE}=1 it becomes the truth"


@pytest.mark.parametrize("name", NAMES)
def test_no_pod_has_more_rights_than_it_needs(name):
    for component, pod in pod_templates(rendered(name)).items():
        spec = pod["spec"]
        # With mode auto KubeRay's autoscaler in the head's pod talks to the API server.
        if not (name == "gpu-cluster" and component == "head"):
            assert spec["automountServiceAccountToken"] is False, component
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        for container in containers(pod):
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert "memory" in container["resources"]["limits"], container["name"]


@pytest.mark.parametrize("name", NAMES)
def test_every_mount_has_its_volume_and_every_volume_is_mounted(name):
    for component, pod in pod_templates(rendered(name)).items():
        mounted = {m["name"] for c in containers(pod) for m in c.get("volumeMounts", ())}
        assert mounted == {volume["name"] for volume in pod["spec"]["volumes"]}, component
        for container in containers(pod):
            paths = [mount["mountPath"] for mount in container.get("volumeMounts", ())]
            assert len(set(paths)) == len(paths)


def test_a_pod_lives_as_long_as_running_requests_may_and_some_more():
    made = render(drain__deadlineSeconds=90, drain__marginSeconds=25)
    settings = yaml.safe_load(find(made, "ConfigMap")["data"]["galerne.yaml"])
    head = pod_templates(made)["head"]["spec"]
    assert (settings["drain_s"], head["terminationGracePeriodSeconds"]) == (90, 115)


def test_workers_look_for_the_head_where_a_service_has_it_before_it_is_ready():
    made = rendered("defaults")
    [address] = [
        argument.removeprefix("--address=")
        for argument in pod_templates(made)["shard"]["spec"]["containers"][0]["args"]
        if argument.startswith("--address=")
    ]
    service = find(made, "Service", address.partition(":")[0])
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert (
        service["spec"]["selector"].items()
        <= pod_templates(made)["head"]["metadata"]["labels"].items()
    )
    head = pod_templates(made)["head"]["spec"]["containers"][0]
    assert {"name": "gcs", "containerPort": int(address.partition(":")[2])} in head["ports"]


@pytest.mark.parametrize("name", ["defaults", "gpu-cluster", "hardened"])
def test_from_outside_only_the_ports_for_others_are_open(name):
    """Not 9101, 8404 and the replicas' ports of Serve's HAProxy, nor Ray's."""
    made = rendered(name)
    own = {"app.kubernetes.io/name": "galerne", "app.kubernetes.io/instance": "demo"}
    opened = set()
    for policy in (m for m in made if m["kind"] == "NetworkPolicy"):
        assert "Ingress" in policy["spec"]["policyTypes"]
        for rule in policy["spec"]["ingress"]:
            peers = rule.get("from", [{}])
            if peers == [{"podSelector": {"matchLabels": own}}]:
                continue
            opened |= {port["port"] for port in rule["ports"]}
    operators = {8265} if name == "gpu-cluster" else set()
    assert opened == {8000, 9000, 8080} | operators


def names_of(kind, manifests):
    return {m["metadata"]["name"] for m in manifests if m["kind"] == kind}


def test_budgets_are_only_for_what_has_more_than_one_pod():
    made = rendered("gpu-gateway-cpu-shards")
    assert names_of("StatefulSet", made) == {f"demo-galerne-{c}" for c in ("head", *WORKERS)}
    assert names_of("PodDisruptionBudget", made) == {"demo-galerne-shard"}


def test_a_release_that_is_named_like_the_chart_is_not_named_twice():
    made = render(release="galerne")
    assert names_of("StatefulSet", made) == {"galerne-head", "galerne-shard"}


def test_serve_is_started_with_the_variables_that_bare_ray_gives_it():
    lines = (ROOT / "deploy" / "ray" / "serve.env").read_text().splitlines()
    told = [line for line in lines if line and not line.startswith("#")]
    head = pod_templates(rendered("gpu-cluster"))["head"]["spec"]["containers"][0]
    given = [f"{e['name']}={e['value']}" for e in head["env"] if "RAY_SERVE_" in e["name"]]
    assert given == told


def test_the_application_takes_the_settings_that_the_chart_writes(tmp_path):
    made = rendered("gpu-cluster")
    serve = yaml.safe_load(find(made, "RayService")["spec"]["serveConfigV2"])
    [application] = serve["applications"]
    assert application["import_path"] == f"{build.__module__}:{build.__name__}"
    assert application["args"] == {"config": "/etc/galerne/galerne.yaml"}
    file = tmp_path / "galerne.yaml"
    file.write_text(find(made, "ConfigMap")["data"]["galerne.yaml"])
    assert settings_of({"config": str(file)}).await_nodes == 3


def test_the_notes_say_what_computes_where_and_that_no_gpu_has_seen_it(tmp_path):
    [file] = [path for path in EXAMPLES if path.stem == "gpu-nccl"]
    notes = run_helm("install", "demo", CHART, "--dry-run=client", f"--values={file}")
    assert "gateways compute on cuda, shards on cuda" in notes
    assert "not yet run on one" in notes
    assert "NCCL crosses the pod network in plain text" in notes
    alone = tmp_path / "values.yaml"
    alone.write_text(file.read_text().replace("  trusted_network: nccl\n", "  log_format: json\n"))
    untrusted = run_helm("install", "demo", CHART, "--dry-run=client", f"--values={alone}")
    assert "links between pods go by gRPC" in untrusted
    assert "GPU path" not in run_helm("install", "demo", CHART, "--dry-run=client")


def test_the_notes_say_how_to_ask_and_what_is_open():
    notes = run_helm("install", "demo", CHART, "--dry-run=client")
    assert "helm -n default test demo" in notes
    assert "no API keys" in notes
    assert "plain text" in notes
