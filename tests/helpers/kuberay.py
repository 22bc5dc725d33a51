"""What the KubeRay operator makes of a RayService, as far as pods on hosts of ours need it.

No operator can run here. That it starts Ray by ``ray start`` with the group's parameters and
labels, gives the token by RAY_AUTH_TOKEN, names the head's service so, keeps Ray's state on a claim
and brings the application by the dashboard, is from its source (ray-project/kuberay,
ray-operator/controllers/ray).
"""

import copy
import secrets

_HEAD_SERVICE = "{}-head-svc"
_GCS_PORT = 6379
# Where the operator mounts it is its own affair. Here below a directory that every pod has.
_STATE_PATH = "/tmp/ray-state"


def operated(manifests):
    """The same with StatefulSets, a Service and a token in the place of the RayService."""
    [service] = [m for m in manifests if m["kind"] == "RayService"]
    cluster = service["spec"]["rayClusterConfig"]
    assert cluster["authOptions"]["mode"] == "token"
    address = f"{_HEAD_SERVICE.format(service['metadata']['name'])}:{_GCS_PORT}"
    token = {"name": "RAY_AUTH_TOKEN", "value": secrets.token_hex(32)}
    groups = [({**cluster["headGroupSpec"], "replicas": 1}, ["--head"])]
    groups += [(group, [f"--address={address}"]) for group in cluster["workerGroupSpecs"]]
    made = [_group(*group, [token]) for group in groups]
    if (options := cluster.get("gcsFaultToleranceOptions")) is not None:
        _keep_state(made[0]["spec"]["template"]["spec"], options)
    named = {"kind": "Service", "metadata": {"name": address.partition(":")[0]}}
    return [*(m for m in manifests if m is not service), *made, named]


def _group(group, where, env):
    template = copy.deepcopy(group["template"])
    [container] = template["spec"]["containers"]
    flags = [f"--{name}={value}" for name, value in group["rayStartParams"].items()]
    labels = ",".join(f"{name}={value}" for name, value in group.get("labels", {}).items())
    flags += [f"--labels={labels}"] if labels else []
    command = " ".join(["ray", "start", *where, "--block", *flags])
    container |= {"command": ["/bin/bash", "-c", "--"], "args": [f"ulimit -n 65536; {command}"]}
    container["env"] += env
    return {"kind": "StatefulSet", "spec": {"replicas": group["replicas"], "template": template}}


def _keep_state(spec, options):
    """A claim for the head, and Ray told to keep its state there."""
    assert options["backend"] == "rocksdb", f"{options} needs a server that is not here"
    [container] = spec["containers"]
    claim = options["storage"].get("claimName", "made-by-the-operator")
    spec["volumes"].append(
        {"name": "ray-state", "persistentVolumeClaim": {"claimName": claim}},
    )
    container["volumeMounts"].append({"name": "ray-state", "mountPath": _STATE_PATH})
    container["env"] += [
        {"name": "RAY_gcs_storage", "value": "rocksdb"},
        {"name": "RAY_gcs_storage_path", "value": _STATE_PATH},
    ]


def bring_application(pods, ray_service):
    """As the operator does: tell Serve what to run."""
    config = ray_service["spec"]["serveConfigV2"]
    script = 'cat > /tmp/serve.yaml <<"END"\n' + config + "\nEND\nserve deploy /tmp/serve.yaml"
    code, said = pods["head-0"].run(["sh", "-c", script])
    assert code == 0, said
