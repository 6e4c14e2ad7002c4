"""pyproject.toml asks for what the packages import, each of it in the right place, and for nothing else."""

import ast
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from tests.support.floors import PROJECT, floors, requirements
from tests.support.reference import ROOT

OWNERS = packages_distributions()
# Python's, our own, and `google`, a folder that several share.
NOBODYS = {*sys.stdlib_module_names, "_typeshed", "gatestream", "tests", "benchmarks", "google"}
CLIENT = ("client", "cli", "files", "protos")


def asked(*extras: str) -> set[str]:
    """What an install with some extras has, by name; an onnxruntime of either kind by one."""
    return {str(canonicalize_name(each.name)).removesuffix("-gpu") for each in requirements(*extras)}


def imported(*folders: str) -> set[str]:
    """The distributions that are imported anywhere in some packages' files."""
    modules = set()
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        modules |= set(_modules(path))
    found = set()
    for module in {name.partition(".")[0] for name in modules} - NOBODYS:
        (name,) = set(OWNERS[module])
        found.add(canonicalize_name(name).removesuffix("-gpu"))
    return found | ({"protobuf"} if any(name.startswith("google.protobuf") for name in modules) else set())


def _modules(path: Path) -> list[str]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    plain = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return plain + [str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)]


def test_a_plain_install_is_the_client_and_its_commands() -> None:
    assert asked() == {"click", "grpcio", "grpcio-health-checking", "numpy", "protobuf"}
    assert asked() <= imported(*CLIENT)


@pytest.mark.parametrize("extra", ["cpu", "cuda"])
def test_what_serving_and_inspecting_add(extra: str) -> None:
    assert asked(extra) == asked() | {
        "grpcio-reflection",
        "onnx",
        "onnx-ir",
        "onnxruntime",
        "prometheus-client",
        "structlog",
    }
    assert asked(extra) - asked() <= imported("server", "export")
    assert imported("server") <= asked(extra, "valkey")


def test_what_a_store_in_a_server_adds() -> None:
    assert asked("valkey") - asked() == {"redis"} <= imported("server")


def test_what_training_adds() -> None:
    assert imported("model") <= asked("train")
    # The commands import what they need when they are called.
    assert asked("train") - asked() <= imported("model", "export", "cli")


def test_nothing_is_imported_that_no_extra_has() -> None:
    assert imported(*CLIENT, "model", "export", "server") == asked("cpu", "train", "valkey")


def test_what_tests_and_benchmarks_import_is_what_developing_adds() -> None:
    # Those of make test-clients have environments of their own.
    theirs = {"kserve", "tritonclient"}
    own = {path for path in (ROOT / "tests").iterdir() if path.is_dir() and path.name != "clients"}
    folders = (f"tests/{path.name}" for path in own)
    assert imported(*folders, "benchmarks") - theirs <= asked("cpu", "train", "dev")


def test_everything_that_is_asked_for_has_a_lower_bound() -> None:
    for extra in PROJECT["optional-dependencies"]:
        assert {each.name for each in requirements(extra)} == floors(extra).keys()
