"""Whether a cluster would take a manifest: strictly, so that a misspelt field is an error."""

import gzip
import json
from functools import cache
from pathlib import Path

import jsonschema
import kubernetes_validate
import yaml

_DATA = Path(__file__).parents[1] / "data"
KUBERNETES = "1.34"


def problems(manifest):
    """What is wrong with it, a line each."""
    kind = manifest["kind"]
    if kind == "RayService":
        told = _of(_ray_service(), manifest, "ray.io/v1")
        return told + [
            problem
            for pod in _pods_of(manifest["spec"]["rayClusterConfig"])
            for problem in _of_kubernetes({"apiVersion": "v1", "kind": "PodTemplate", **pod})
        ]
    others = _others()
    if kind in others and kind != "definitions":
        schema = others[kind]["spec"] | {"definitions": others["definitions"]}
        return _of(schema, manifest["spec"], None) + (
            []
            if manifest["apiVersion"] == others[kind]["apiVersion"]
            else [f"apiVersion: {manifest['apiVersion']}"]
        )
    return _of_kubernetes(manifest)


def _pods_of(cluster):
    """Pod templates, which KubeRay's own schema keeps loosely in places."""
    for group in (cluster["headGroupSpec"], *cluster.get("workerGroupSpecs", ())):
        yield {"metadata": {"name": "pod"}, "template": group["template"]}


def _of_kubernetes(manifest):
    try:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{'.'.join(map(str, error.path))}: {error.message[:300]}"]
    return []


def _of(schema, value, api_version):
    errors = jsonschema.Draft202012Validator(schema).iter_errors(value)
    told = [f"{error.json_path}: {error.message[:300]}" for error in errors]
    if api_version is not None and value["apiVersion"] != api_version:
        told.append(f"apiVersion: {value['apiVersion']}")
    return told


@cache
def _ray_service():
    text = gzip.decompress((_DATA / "kuberay-rayservice-v1.json.gz").read_bytes())
    schema = _strict(json.loads(text))
    schema["properties"]["metadata"] = {"type": "object"}
    return schema


@cache
def _others():
    return _strict(yaml.safe_load((_DATA / "crds.yaml").read_text()))


def _strict(node):
    """The same, where an object has no other fields than those it lists."""
    if isinstance(node, list):
        return [_strict(each) for each in node]
    if not isinstance(node, dict):
        return node
    made = {key: _strict(value) for key, value in node.items()}
    is_object = isinstance(made.get("properties"), dict) and made.get("type") == "object"
    is_open = made.get("x-kubernetes-preserve-unknown-fields", False)
    if is_object and not is_open:
        made.setdefault("additionalProperties", False)
    if made.get("x-kubernetes-int-or-string"):
        made.pop("format", None)
    return made
