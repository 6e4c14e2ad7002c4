"""Who has which session: every way to open one, of every session that there may be, and what ends one."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gatestream.server.core.batches import GATES, OUTPUTS
from gatestream.server.core.lifecycle import SessionState
from gatestream.server.core.reply_sink import CloseReason
from gatestream.server.errors import AlreadyExists, Draining, InvalidRequest, NotFound, Refused
from tests.support.artifacts import ACCUMULATOR_FINGERPRINT
from tests.support.engine import Bench, Recorder, bench

MODES = {"either": (True, True), "create": (True, False), "resume": (False, True)}
"""Whether a session may be made, and whether it may be there already."""


@pytest.fixture
async def b(accumulator_path: Path) -> AsyncIterator[Bench]:
    async with bench(accumulator_path, sequence_timeout=5.0, idle_timeout=60.0) as made:
        yield made


async def asked(b: Bench, owner: Recorder, mode: str, session_id: str = "s", tenant: str = "") -> int:
    create, resume = MODES[mode]
    slot = b.lifecycle.open(owner, tenant, session_id, 7, create=create, resume=resume, reply_mask=OUTPUTS)
    await b.engine.quiet()
    return slot


async def there(b: Bench, how: str) -> tuple[int | None, Recorder]:
    """A session "s" with one step taken, if there is one, and who held it last."""
    before = Recorder()
    if how == "none":
        return None, before
    if how == "another tenant's":
        return await asked(b, before, "create", tenant="another"), before
    slot = b.open(before, 0, "s")
    b.steps(before, [0], [slot], [[1.0]])
    await b.engine.quiet()
    if how == "ended":
        b.lifecycle.close(before, np.array([slot]))
        await b.engine.quiet()
    if how == "detached":
        b.engine.sessions.detach(slot)
    before.take()
    return slot, before


@pytest.mark.parametrize(
    ("how", "mode", "expected"),
    [
        ("none", "either", ("opened", 7, 0, True)),
        ("none", "create", ("opened", 7, 0, True)),
        ("none", "resume", NotFound),
        ("another tenant's", "either", ("opened", 7, 0, True)),
        ("another tenant's", "create", ("opened", 7, 0, True)),
        ("another tenant's", "resume", NotFound),
        ("ended", "either", ("opened", 7, 0, True)),
        ("ended", "create", ("opened", 7, 0, True)),
        ("ended", "resume", NotFound),
        ("detached", "either", ("opened", 7, 1, False)),
        ("detached", "create", AlreadyExists),
        ("detached", "resume", ("opened", 7, 1, False)),
        ("held", "either", ("opened", 7, 1, False)),
        ("held", "create", AlreadyExists),
        ("held", "resume", ("opened", 7, 1, False)),
    ],
)
async def test_every_way_to_open_every_session(b: Bench, how: str, mode: str, expected: Any) -> None:
    slot, before = await there(b, how)
    owner = Recorder()
    if isinstance(expected, tuple):
        found = await asked(b, owner, mode)
        assert owner.take() == [expected]
        assert (found == slot) == (not expected[3]) or how == "ended"
        taken_over = [("lost", 0), ("closed", "TAKEN_OVER", [0], [1])] if how == "held" else []
        assert before.take() == taken_over or how == "another tenant's"
        return
    with pytest.raises(expected):
        await asked(b, owner, mode)
    assert (owner.take(), before.take() if how == "held" else []) == ([], [])
    if how in ("held", "detached"):
        assert b.engine.sessions.position[slot] == 1


async def test_what_was_accepted_before_is_taken_before_a_session_goes_to_another(b: Bench) -> None:
    first, second = Recorder(), Recorder()
    slot = b.open(first, 0, "s")
    b.steps(first, [0], [slot], [[1.0] * 6])
    b.lifecycle.open(second, "", "s", 3, create=False, resume=True, reply_mask=OUTPUTS)
    b.steps(second, [3], [slot], [[1.0]])
    await b.engine.quiet()
    assert first.take()[1:] == [
        ("lost", 0),
        ("results", [0], [0], [6], [1, 2, 3, 4, 5, 6]),
        ("closed", "TAKEN_OVER", [0], [6]),
    ]
    assert second.take() == [("opened", 3, 6, False), ("results", [3], [6], [1], [7])]


async def test_a_reset_has_its_turn(b: Bench) -> None:
    owner = Recorder()
    slot = b.open(owner, 0)
    b.steps(owner, [0], [slot], [[1.0, 1.0]])
    b.lifecycle.reset(owner, np.array([slot]), np.array([0]))
    b.steps(owner, [0], [slot], [[1.0]])
    await b.engine.quiet()
    assert owner.take()[1:] == [
        ("results", [0], [0], [2], [1, 2]),
        ("reset", [0], [2]),
        ("results", [0], [2], [1], [1]),
    ]


async def test_what_ends_sessions(b: Bench) -> None:
    owner, gone = Recorder(), Recorder()
    slots = np.array([b.open(owner, handle, f"s{handle}") for handle in range(4)])
    left = b.open(gone, 9)
    owner.take()
    b.lifecycle.close(owner, slots[:1])
    assert await b.lifecycle.close_by_id("", "s1") == 0
    b.lifecycle.detach(gone, np.array([left]))
    await b.engine.quiet()
    b.now = 61.0
    assert await b.lifecycle.expire() == 2
    assert sorted(owner.take()) == [
        ("closed", "ADMINISTERED", [1], [0]),
        ("closed", "IDLE", [2, 3], [0, 0]),
        ("closed", "REQUESTED", [0], [0]),
    ]
    assert len(b.engine.sessions) == 0
    with pytest.raises(NotFound):
        await b.lifecycle.close_by_id("", "s1")
    b.open(owner, 0)
    owner.take()
    await b.lifecycle.end_all(CloseReason.DRAINED)
    assert owner.take() == [("closed", "DRAINED", [0], [0])]


async def test_states_go_from_session_to_session(b: Bench) -> None:
    owner = Recorder()
    slot = b.open(owner, 0, "s")
    b.steps(owner, [0], [slot], [[1.0, 2.0]])
    kept = await b.lifecycle.state("", "s")
    assert (kept.position, np.frombuffer(kept.rows[0], "<f4").tolist()) == (2, [3, 3])
    assert await b.lifecycle.fork("", "s", "twin") == ("twin", 2)
    b.open(owner, 1, "other")
    assert await b.lifecycle.set_state("", "other", kept) == 2
    assert await b.lifecycle.state("", "twin") == await b.lifecycle.state("", "other") == kept
    with pytest.raises(AlreadyExists):
        await b.lifecycle.fork("", "s", "twin")


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (SessionState("of others", 1, [bytes(8)]), "state.weights_fingerprint is 'of others'"),
        (SessionState(ACCUMULATOR_FINGERPRINT, 1, [bytes(4)]), r"state.state has columns of \[4\] bytes"),
        (SessionState(ACCUMULATOR_FINGERPRINT, 1, []), r"state.state has columns of \[\] bytes"),
        (SessionState(ACCUMULATOR_FINGERPRINT, 2**62, [bytes(8)]), "state.position is 4611686018427387904"),
        (
            SessionState(ACCUMULATOR_FINGERPRINT, 1, [np.array([0, np.nan], "<f4").tobytes()]),
            "state.state 's' holds NaN or infinity",
        ),
    ],
)
async def test_a_state_that_does_not_fit_changes_nothing(b: Bench, state: SessionState, says: str) -> None:
    owner = Recorder()
    slot = b.open(owner, 0, "s")
    b.steps(owner, [0], [slot], [[1.0]])
    before = await b.lifecycle.state("", "s")
    with pytest.raises(InvalidRequest, match=says):
        await b.lifecycle.set_state("", "s", state)
    assert await b.lifecycle.state("", "s") == before


async def test_a_sequence_is_held_by_nobody(b: Bench) -> None:
    holder = Recorder()
    with pytest.raises(NotFound, match="is not here"):
        b.lifecycle.sequence(holder, "", "sequence:5", start=False)
    slot = b.lifecycle.sequence(holder, "", "sequence:5", start=True)
    assert b.lifecycle.sequence(holder, "", "sequence:5", start=False) == slot
    assert b.engine.sessions.owner[slot] is None
    b.now = 5.5
    assert await b.lifecycle.expire() == 1


@pytest.mark.parametrize("ask", ["open", "start"])
async def test_a_model_that_is_closed_says_why(b: Bench, ask: str) -> None:
    async def start() -> int:
        return b.lifecycle.sequence(Recorder(), "", "sequence:5", start=True)

    ways = {"open": lambda: asked(b, Recorder(), "either", "new"), "start": start}
    held = b.open(owner := Recorder(), 0, "s")
    b.lifecycle.closed_for = "the model is tired"
    with pytest.raises(Draining, match=f"the model is tired; {ask} the se(ssion|quence) on another server"):
        await ways[ask]()
    b.steps(owner, [0], [held], [[1.0]])
    await b.engine.quiet()
    assert owner.take()[-1] == ("results", [0], [0], [1], [1])


async def test_gates_of_a_model_without_them_are_refused(b: Bench) -> None:
    with pytest.raises(Refused, match="gates were asked for"):
        b.lifecycle.open(Recorder(), "", "", 0, create=True, resume=True, reply_mask=GATES)
    assert len(b.engine.sessions) == 0
