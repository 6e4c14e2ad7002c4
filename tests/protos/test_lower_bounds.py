"""What the generated code demands of its libraries when it is imported is what the package asks pip for."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.support.floors import PROJECT, floors, requirements
from tests.support.reference import ROOT

BUILT = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]
MESSAGES = sorted((ROOT / "protos").rglob("*_pb2.py"))
SERVICES = sorted((ROOT / "protos").rglob("*_pb2_grpc.py"))


@pytest.mark.parametrize("path", MESSAGES, ids=lambda path: path.name)
def test_the_messages(path: Path) -> None:
    pattern = r"ValidateProtobufRuntimeVersion\(\s*_runtime_version\.Domain\.PUBLIC,\s*(\d+),\s*(\d+),\s*(\d+)"
    found = re.search(pattern, path.read_text())
    assert found is not None
    assert floors()["protobuf"] >= Version(".".join(found.groups()))


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)
@pytest.mark.parametrize("name", ["grpcio", "grpcio-health-checking", "grpcio-reflection"])
def test_the_services(path: Path, name: str) -> None:
    found = re.search(r"GRPC_GENERATED_VERSION = '(.+)'", path.read_text())
    assert found is not None
    assert floors("serving")[name] >= Version(found.group(1))


@pytest.mark.parametrize(("extra", "name"), [("cpu", "onnxruntime"), ("cuda", "onnxruntime-gpu")])
def test_a_binding_outlives_a_run_that_fails(extra: str, name: str) -> None:
    # Session.get_provider_graph_assignment_info came with 1.24, and this with 1.30.
    assert floors(extra)[name] >= Version("1.30")


def test_the_wheel_is_built_with_what_tests_build_it_with() -> None:
    (backend,) = map(Requirement, BUILT["requires"])
    assert str(backend.specifier) == f">={floors('dev')[backend.name]}"


def test_what_is_installed_here_is_no_older() -> None:
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    for item in requirements(*PROJECT["optional-dependencies"]):
        if item.name in pins:
            assert item.specifier.contains(pins[item.name]), item
