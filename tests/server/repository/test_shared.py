"""What several workers say of their models, as one list."""

from gatestream.server.core.catalog import ModelState
from gatestream.server.core.model_control import ModelStatus
from gatestream.server.repository.repository import in_order
from gatestream.server.repository.shared import merged

READY, DRAINING, FAILED, UNLOADED = (
    ModelState.READY,
    ModelState.DRAINING,
    ModelState.FAILED,
    ModelState.UNLOADED,
)


def test_the_sessions_of_all_are_counted() -> None:
    one = [ModelStatus("m", "1", READY, sessions=3, fingerprint="f"), ModelStatus("m", "2", UNLOADED)]
    two = [ModelStatus("m", "2", UNLOADED), ModelStatus("m", "1", READY, sessions=4, fingerprint="f")]
    assert merged({1: one, 2: two}) == [
        ModelStatus("m", "1", READY, sessions=7, fingerprint="f"),
        ModelStatus("m", "2", UNLOADED),
    ]


def test_the_worst_state_is_that_of_all() -> None:
    by_worker = {
        2: [ModelStatus("m", "1", FAILED, "too little memory")],
        1: [ModelStatus("m", "1", READY, sessions=3, fingerprint="f")],
    }
    (found,) = merged(by_worker)
    assert (found.state, found.error, found.sessions) == (FAILED, "worker 2: too little memory", 3)
    (found,) = merged({k: [ModelStatus("m", "1", FAILED, "no model")] for k in (1, 2)})
    assert found.error == "no model", "what all say is said once"


def test_one_that_is_replaced_stands_beside_the_other() -> None:
    both = [ModelStatus("m", "1", DRAINING, sessions=1), ModelStatus("m", "1", READY, sessions=2)]
    assert merged({1: both, 2: both[::-1]}) == [
        ModelStatus("m", "1", DRAINING, sessions=2),
        ModelStatus("m", "1", READY, sessions=4),
    ]


def test_versions_are_in_the_order_of_their_numbers() -> None:
    found = in_order(
        ModelStatus(name, version, READY) for name, version in (("b", "1"), ("a", "10"), ("a", "9"), ("a", "x"))
    )
    assert [(each.name, each.version) for each in found] == [("a", "x"), ("a", "9"), ("a", "10"), ("b", "1")]
