"""What a session is given once: when it is taken, who keeps it, and what is refused."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gatestream.server.core.batches import OUTPUTS
from gatestream.server.core.claims import Wish
from gatestream.server.core.constants import Given
from gatestream.server.core.named import SessionState
from gatestream.server.durability.memory import MemoryStore
from gatestream.server.errors import InvalidRequest, OutOfStep, Reason
from tests.support.any_models import RATES, spoken, with_constants
from tests.support.engine import Bench, Recorder, bench

SPEAKER = np.array([[1, 2, 3], [10, 20, 30]], "<f4")
OTHER = SPEAKER + 1
X = np.arange(12, dtype="<f4").reshape(4, 3)


class Listener(Recorder):
    """Writes down the rows of answers."""

    def results(self, handles: Any, first: Any, lengths: Any, outputs: Any, gates: Any) -> None:
        self.rows -= int(lengths.sum())
        self.heard.append(outputs[0].reshape(-1, 3))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_constants(tmp_path_factory.mktemp("model") / "speaker.onnx")


@pytest.fixture
async def b(path: Path) -> AsyncIterator[Bench]:
    async with bench(path, store=MemoryStore()) as bench_:
        yield bench_


def given(**values: Any) -> Given:
    return [(name, np.asarray(value, "<f4").tobytes()) for name, value in values.items()]


def open_(b: Bench, name: str, constants: Given = (), owner: Recorder | None = None, **fields: Any) -> int:
    how: dict[str, Any] = {"create": True, "resume": True, **fields}
    return b.lifecycle.opening.open(owner or Listener(), "", name, 0, reply_mask=OUTPUTS, constants=constants, **how)


async def steps(b: Bench, session: int, x: Any) -> Any:
    """What a session gives for x [steps, 3]."""
    owner = Listener()
    b.engine.submit_one(owner, 0, session, len(x), -1, [np.asarray(x, "<f4").tobytes()], OUTPUTS)
    await b.engine.quiet()
    return np.concatenate(owner.heard)


async def test_each_session_has_its_own_and_what_is_left_out_is_the_models(b: Bench) -> None:
    one, two = open_(b, "one", given(speaker=SPEAKER)), open_(b, "two", given(speaker=OTHER, rate=[2, 2, 2]))
    for _ in range(3):
        assert (await steps(b, one, X[:0:-1])).shape == (3, 3)
    np.testing.assert_array_equal(await steps(b, two, X), spoken(X, OTHER, np.array([2, 2, 2])))
    fresh = open_(b, "three", given(speaker=SPEAKER))
    np.testing.assert_array_equal(await steps(b, fresh, X), spoken(X, SPEAKER))


async def test_a_reset_keeps_them_and_so_does_a_copy(b: Bench) -> None:
    session = open_(b, "s", given(speaker=OTHER))
    twin, _ = await b.lifecycle.named.fork("", "s", "before")
    await steps(b, session, X)
    await b.lifecycle.named.fork("", "s", "after")
    for name in ("s", twin, "after"):
        which = b.engine.sessions.tenants.find("", name)
        b.lifecycle.held.reset(Listener(), np.array([which]), np.array([0]))
        np.testing.assert_array_equal(await steps(b, which, X), spoken(X, OTHER))
        open_(b, name, given(speaker=OTHER))
        await b.engine.quiet()


async def test_a_session_that_comes_back_from_a_store_has_its_own(b: Bench) -> None:
    session = open_(b, "s", given(speaker=OTHER), wish=Wish(parks=True))
    await b.engine.quiet()
    assert b.lifecycle.kept is not None
    b.lifecycle.kept.hand_over(np.array([session]))
    assert b.checkpointer is not None
    await b.checkpointer.round()
    assert b.engine.sessions.tenants.get("", "s") is None
    # Another session has its slot meanwhile.
    for k in range(6):
        open_(b, f"other-{k}", given(speaker=SPEAKER))
    listener = Listener()
    open_(b, "s", given(speaker=SPEAKER), listener, wish=Wish(parks=True))
    await b.engine.quiet()
    assert listener.take() == [("not opened", 0, "CONSTANT_MISMATCH")]
    session = open_(b, "s", given(speaker=OTHER, rate=RATES), wish=Wish(parks=True))
    await b.engine.quiet()
    np.testing.assert_array_equal(await steps(b, session, X), spoken(X, OTHER))
    b.lifecycle.held.reset(Listener(), np.array([session]), np.array([0]))
    np.testing.assert_array_equal(await steps(b, session, X), spoken(X, OTHER))


async def test_a_session_that_is_there_has_the_same_or_is_left_alone(b: Bench) -> None:
    owner = Listener()
    session = open_(b, "s", given(speaker=SPEAKER), owner)
    open_(b, "s")
    open_(b, "s", given(speaker=SPEAKER), create=False)
    # Bit for bit: a zero of another sign is another number.
    zeros = np.zeros((2, 3))
    open_(b, "zero", given(speaker=zeros))
    for name, constants in (("s", given(speaker=OTHER)), ("s", given(rate=RATES + 1)), ("zero", given(speaker=-zeros))):
        with pytest.raises(OutOfStep, match="keeps") as caught:
            open_(b, name, constants)
        assert caught.value.reason is Reason.CONSTANT_MISMATCH
    await b.engine.quiet()
    np.testing.assert_array_equal(await steps(b, session, X), spoken(X, SPEAKER))


WRONG: list[tuple[Given, Reason, str]] = [
    ((), Reason.MALFORMED, r"constant 'speaker' was not given, .* 24 bytes \(float32 \[2, 3\]\)"),
    (given(speaker=SPEAKER[0]), Reason.MALFORMED, "constant 'speaker' has 12 bytes; expected 24 bytes"),
    (given(speaker=SPEAKER, s=[0]), Reason.MALFORMED, "'s' was given; model 'speaker' has: 'speaker', 'rate'"),
    ([*given(speaker=SPEAKER)] * 2, Reason.MALFORMED, "'speaker' was given twice"),
    (given(speaker=SPEAKER * np.nan), Reason.NOT_FINITE, "constant 'speaker' holds NaN or infinity"),
]


@pytest.mark.parametrize(("constants", "reason", "says"), WRONG)
async def test_what_does_not_fit_makes_no_session(b: Bench, constants: Given, reason: Reason, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says) as caught:
        open_(b, "s", constants)
    assert caught.value.reason is reason
    with pytest.raises(InvalidRequest, match=says):
        sequence(b, "s", constants, start=True)
    assert len(b.engine.sessions) == 0


async def test_a_model_without_constants_takes_none(accumulator_path: Path) -> None:
    async with bench(accumulator_path) as b:
        with pytest.raises(InvalidRequest, match="constant 'speaker' was given; model 'accumulator' has: none"):
            open_(b, "s", given(speaker=SPEAKER))


async def test_a_state_is_set_where_the_constants_are_the_same(b: Bench) -> None:
    one, two = open_(b, "one", given(speaker=SPEAKER)), open_(b, "two", given(speaker=SPEAKER))
    open_(b, "else", given(speaker=OTHER))
    await steps(b, one, X)
    state = await b.lifecycle.named.state("", "one")
    assert await b.lifecycle.named.set_state("", "two", state) == 4
    np.testing.assert_array_equal(await steps(b, two, X), spoken(np.concatenate((X, X)), SPEAKER)[4:])
    b.lifecycle.held.reset(Listener(), np.array([two]), np.array([0]))
    np.testing.assert_array_equal(await steps(b, two, X), spoken(X, SPEAKER))
    with pytest.raises(OutOfStep, match="constant 'speaker' is another") as caught:
        await b.lifecycle.named.set_state("", "else", state)
    assert caught.value.reason is Reason.CONSTANT_MISMATCH
    fresh = await b.lifecycle.named.state("", "else")
    assert fresh == SessionState(state.weights_fingerprint, 0, [OTHER.tobytes(), bytes(12), RATES.tobytes()])


# ---- Sequences of the Open Inference Protocol -----------------------------------------------------


def sequence(b: Bench, name: str, constants: Given = (), *, start: bool) -> int:
    return b.lifecycle.sequences.session(Listener(), "", name, start=start, constants=constants)


async def test_a_sequence_that_starts_again_has_what_comes_with_its_start(b: Bench) -> None:
    session = sequence(b, "sequence:5", given(speaker=SPEAKER), start=True)
    np.testing.assert_array_equal(await steps(b, session, X), spoken(X, SPEAKER))
    assert sequence(b, "sequence:5", given(speaker=SPEAKER), start=False) == session
    with pytest.raises(OutOfStep):
        sequence(b, "sequence:5", given(speaker=OTHER), start=False)
    # In its order: what stands before it is of the old speaker.
    owner = Listener()
    b.engine.submit_one(owner, 0, session, 4, -1, [X.tobytes()], OUTPUTS)
    assert sequence(b, "sequence:5", given(speaker=OTHER), start=True) == session
    assert sequence(b, "sequence:5", given(speaker=OTHER), start=False) == session
    b.engine.submit_one(owner, 1, session, 4, -1, [X.tobytes()], OUTPUTS)
    await b.engine.quiet()
    expected = [spoken(np.concatenate((X, X)), SPEAKER)[4:], spoken(X, OTHER)]
    np.testing.assert_array_equal(np.concatenate(owner.heard), np.concatenate(expected))
    with pytest.raises(InvalidRequest, match="'speaker' was not given"):
        sequence(b, "sequence:5", start=True)


async def test_a_copy_has_those_of_its_turn(b: Bench) -> None:
    session = sequence(b, "sequence:5", given(speaker=SPEAKER), start=True)
    owner = Listener()
    b.engine.submit_one(owner, 0, session, 4, -1, [X.tobytes()], OUTPUTS)
    copying = b.lifecycle.named.fork("", "sequence:5", "twin")
    task = asyncio.ensure_future(copying)
    await asyncio.sleep(0)
    sequence(b, "sequence:5", given(speaker=OTHER), start=True)
    twin, position = await task
    assert position == 4
    assert open_(b, twin, given(speaker=SPEAKER), create=False) == b.engine.sessions.tenants.find("", twin)
    with pytest.raises(OutOfStep):
        open_(b, twin, given(speaker=OTHER))
    sequence(b, "sequence:5", given(speaker=OTHER), start=False)
    await b.engine.quiet()


async def test_a_start_that_is_not_done_leaves_the_constants(b: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    session = sequence(b, "sequence:5", given(speaker=SPEAKER), start=True)
    await steps(b, session, X)

    def fails(*_: Any) -> Any:
        raise RuntimeError("out of order")

    monkeypatch.setattr(b.engine.rows.runner, "step", fails)
    owner = Listener()
    b.engine.submit_one(owner, 0, session, 4, -1, [X.tobytes()], OUTPUTS)
    for constants in (OTHER, OTHER + 1):
        sequence(b, "sequence:5", given(speaker=constants), start=True)
    await b.engine.quiet()
    monkeypatch.undo()
    assert [each[0] for each in owner.heard] == ["STEP_FAILED"]
    sequence(b, "sequence:5", given(speaker=SPEAKER), start=False)
    np.testing.assert_array_equal(await steps(b, session, X), spoken(np.concatenate((X, X)), SPEAKER)[4:])
