"""Rendered manifests in short: what a change of a template does to them, at a glance.

Left out is what is the same everywhere or is tested elsewhere: the chart's labels, the texts of
dashboards and alerts, the random token.
"""

import os
from pathlib import Path

import yaml

SNAPSHOTS = Path(__file__).parents[1] / "snapshots" / "helm"
UPDATE_VARIABLE = "GALERNE_UPDATE_SNAPSHOTS"
_CHART_LABELS = ("app.kubernetes.io/", "helm.sh/")


def compared(name, manifests):
    """What is, and what is expected; writes the latter where the variable says so."""
    text = in_short(manifests)
    path = SNAPSHOTS / f"{name}.yaml"
    if os.environ.get(UPDATE_VARIABLE):
        path.write_text(text)
    return text, path.read_text() if path.exists() else ""


def in_short(manifests):
    """As YAML, by kind and name."""
    ordered = sorted(manifests, key=lambda m: (m["kind"], m["metadata"]["name"]))
    made = [_short(manifest) for manifest in ordered]
    return yaml.dump_all(made, Dumper=yaml.CSafeDumper, default_flow_style=None, width=100)


def _short(manifest):
    made = _shorter(manifest)
    is_dashboards = manifest["metadata"]["name"].endswith("-dashboards")
    if manifest["kind"] == "PrometheusRule":
        made["spec"] = "(alerts/galerne.rules.yaml)"
    elif is_dashboards or manifest["kind"] == "Secret":
        made["data"] = sorted(manifest["data"])
    elif manifest["kind"] == "ConfigMap":
        made["data"] = {name: yaml.safe_load(text) for name, text in manifest["data"].items()}
    elif manifest["kind"] == "RayService":
        made["spec"]["serveConfigV2"] = yaml.safe_load(manifest["spec"]["serveConfigV2"])
    return made


def _shorter(node):
    if isinstance(node, list):
        return [_shorter(each) for each in node]
    if not isinstance(node, dict):
        return node
    made = {key: _shorter(value) for key, value in node.items()}
    for key in ("labels", "matchLabels"):
        if isinstance(made.get(key), dict):
            made[key] = _own_labels(made[key])
    if "env" in made:
        made["env"] = {e["name"]: e.get("value", e.get("valueFrom")) for e in made["env"]}
    if "volumeMounts" in made:
        made["volumeMounts"] = {mount.pop("mountPath"): mount for mount in made["volumeMounts"]}
    return made


def _own_labels(labels):
    component = labels.get("app.kubernetes.io/component")
    kept = {key: value for key, value in labels.items() if not key.startswith(_CHART_LABELS)}
    return kept | ({"component": component} if component else {})
