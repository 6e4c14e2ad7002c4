"""The short form of `make test-faults`: some of everything, and what its counts would show."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from gatestream.client import connect
from tests.support.process import serving
from tests.survival.crowd import outcome, plans
from tests.survival.cuts import cut_connections
from tests.survival.kills import kill_server
from tests.survival.models import MODELS, artifacts
from tests.survival.owners import stop_owners
from tests.survival.replicas import lose_replicas
from tests.survival.takeovers import kill_clients
from tests.survival.walks import Plan, Walk, different

WALKS = plans(MODELS, 8)


@pytest.fixture(scope="module")
def undisturbed(models: Sequence[Path]) -> Iterator[str]:
    with serving(*models, deterministic=True) as server:
        yield server.address


@pytest.fixture(scope="module")
def models(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Sequence[Path]:
    return artifacts(reference / "reber.gates.onnx", tmp_path_factory.mktemp("models"))


def test_killed_servers(models: Sequence[Path], undisturbed: str, tmp_path: Path) -> None:
    found = outcome(kill_server(models, WALKS, tmp_path, 2, "behind"), undisturbed)
    assert found.whole, found
    assert found.resumes >= 8, "nobody noticed"


def test_killed_servers_with_few_slots(models: Sequence[Path], undisturbed: str, tmp_path: Path) -> None:
    found = outcome(kill_server(models, WALKS, tmp_path, 3, "behind", sessions=2, held_sessions=64), undisturbed)
    assert found.whole, found
    assert found.resumes >= 8, "nobody noticed"


def test_connections(models: Sequence[Path], undisturbed: str, tmp_path: Path) -> None:
    found = outcome(cut_connections(models, WALKS, tmp_path, 4), undisturbed)
    assert found.whole, found


def test_replicas(models: Sequence[Path], undisturbed: str) -> None:
    found = outcome(lose_replicas(models, WALKS, kills=1, restarts=1, away=[]), undisturbed)
    assert found.whole, found


def test_an_owner_that_stops(models: Sequence[Path], undisturbed: str, tmp_path: Path) -> None:
    found = outcome(stop_owners(models, WALKS, tmp_path, 2), undisturbed)
    assert found.whole, found
    assert found.resumes >= 8, "nobody noticed"
    assert found.kinds["late writes refused"], "the older owner wrote nothing"


def test_killed_clients(models: Sequence[Path], undisturbed: str, tmp_path: Path) -> None:
    found = kill_clients(models, undisturbed, tmp_path, 1, "behind")
    assert found.whole, found


def test_a_step_that_is_lost_or_doubled_or_of_another_session_differs(undisturbed: str) -> None:
    plan, other = Plan(MODELS[0], 1, 1, 0, 5), Plan(MODELS[0], 1, 1, 0, 6)
    walks = [Walk(plan) for _ in range(4)]
    xs = plan.inputs[0, :6]
    taken = [xs, xs[[0, 1, 3, 4, 5, 5]], xs[[0, 1, 2, 2, 3, 4]], other.inputs[0, :6]]
    with connect(undisturbed) as client:
        for walk, each in zip(walks, taken, strict=True):
            with client.session("reber") as session:
                walk.members[0].answers = [np.asarray(session.run(each))]
                walk.members[0].segments = [6]
    right, *wrong = different(walks, undisturbed)
    assert right == 0
    assert all(wrong)
