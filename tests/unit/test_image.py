"""The image: what its Dockerfile copies is there, and it installs what the package needs."""

import fnmatch
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement
from packaging.version import Version

from helpers.dockerfile import lineage, read_dockerfile

ROOT = Path(__file__).parents[2]
PACKAGE = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = {"cpu": "requirements.lock", "cuda": "requirements-cuda.lock"}


def stages(variant="cpu"):
    return read_dockerfile(ROOT / "deploy/Dockerfile", VARIANT=variant)


def pins(name):
    """Version of each package of a lock file."""
    text = (ROOT / "deploy" / name).read_text()
    found = re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)", text, re.MULTILINE)
    assert len(found) == len(re.findall(r"^\S+==\S+ \\\n    --hash=sha256:", text, re.MULTILINE))
    return {canonical(package): version for package, version in found}


def canonical(package):
    return re.sub(r"[-_.]+", "-", package).lower()


@pytest.mark.parametrize("variant", LOCKS)
def test_every_dependency_is_pinned_with_its_hash_and_within_its_bounds(variant):
    pinned = pins(LOCKS[variant])
    extra = PACKAGE["project"]["optional-dependencies"]["gpu"] if variant == "cuda" else []
    for text in [*PACKAGE["project"]["dependencies"], *extra]:
        wanted = Requirement(text)
        version = Version(pinned[canonical(wanted.name)])
        assert wanted.specifier.contains(version), f"{text}, but {version}"


def test_only_the_cuda_image_carries_nvidias_libraries():
    assert Version(pins(LOCKS["cpu"])["torch"]).local == "cpu"
    assert not any(name.startswith("nvidia") for name in pins(LOCKS["cpu"]))
    assert {"nvidia-nccl-cu13", "nvidia-cudnn-cu13"} <= set(pins(LOCKS["cuda"]))


def test_only_the_cuda_image_has_the_compiler_that_triton_calls_at_run_time():
    installs = {
        variant: [
            text
            for stage in lineage(stages(variant), "runtime")
            for text in stage.texts("RUN")
            if "apt-get install" in text
        ]
        for variant in LOCKS
    }
    assert installs["cpu"] == []
    [install] = installs["cuda"]
    assert {"gcc", "libc6-dev"} <= set(install.split())


def test_the_builder_is_the_one_that_the_package_asks_for():
    [wanted] = map(Requirement, PACKAGE["build-system"]["requires"])
    assert wanted.specifier.contains(pins("requirements-build.lock")[wanted.name])


@pytest.mark.parametrize("variant", LOCKS)
def test_what_is_copied_is_in_the_context_and_nothing_of_it_is_ignored(variant):
    patterns = (ROOT / ".dockerignore").read_text().split("\n")
    patterns = [pattern for pattern in patterns if pattern and not pattern.startswith("#")]

    def is_ignored(path):
        ignored = False
        for pattern in patterns:  # the last one that says something about it decides
            plain = pattern.removeprefix("!")
            if fnmatch.fnmatch(path, plain) or fnmatch.fnmatch(path, f"{plain}/*"):
                ignored = not pattern.startswith("!")
        return ignored

    copied = [
        source
        for stage in lineage(stages(variant), "package")
        for sources, _ in stage.copies
        for source in sources
    ]
    assert f"deploy/{LOCKS[variant]}" in copied
    for source in copied:
        assert (ROOT / source).exists(), source
        assert not is_ignored(source), source
    assert is_ignored("checkpoints")
    assert is_ignored(".venv")
    assert is_ignored("tests")
    assert is_ignored("cluster/cli/__pycache__")


def test_all_packages_of_the_wheel_are_copied():
    copied = {
        source for stage in stages().values() for sources, _ in stage.copies for source in sources
    }
    wheel = PACKAGE["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert {package.split("/")[0] for package in wheel} <= copied


def test_the_image_runs_as_nobody_in_particular_and_can_be_asked_for_its_health():
    runtime = stages()["runtime"]
    [user] = runtime.texts("USER")
    assert all(int(number) >= 10000 for number in user.split(":"))
    assert runtime.environment["HOME"] == "/tmp"  # all that can be written to
    [check] = runtime.texts("HEALTHCHECK")
    assert check.endswith('CMD ["galerne", "probe", "ready"]')


def test_the_wheel_carries_the_embedded_model_and_all_else_that_is_read_when_it_runs():
    builder = WheelBuilder(str(ROOT))
    packed = {file.distribution_path for file in builder.recurse_included_files()}
    suffixes = {".safetensors", ".json", ".html", ".css", ".js", ".typed", ".cpp", ".h"}
    packages = [
        Path(name) for name in PACKAGE["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    ]
    tracked = subprocess.run(
        ["git", "ls-files", *map(str, packages)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    read = [name for name in tracked if Path(name).suffix in suffixes]
    assert len(read) > 20
    missing = {name.removeprefix("proto/") for name in read} - packed
    assert not missing
