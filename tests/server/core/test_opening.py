"""Every way to open a session, of every session that there may be."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gatestream.server.core.batches import GATES, OUTPUTS
from gatestream.server.errors import AlreadyExists, Draining, NotFound, Refused
from tests.support.engine import Bench, Recorder, bench

MODES = {"either": (True, True), "create": (True, False), "resume": (False, True)}
"""Whether a session may be made, and whether it may be there already."""


@pytest.fixture
async def b(accumulator_path: Path) -> AsyncIterator[Bench]:
    async with bench(accumulator_path, sequence_timeout=5.0, idle_timeout=60.0) as made:
        yield made


async def asked(b: Bench, owner: Recorder, mode: str, session_id: str = "s", tenant: str = "") -> int:
    create, resume = MODES[mode]
    slot = b.lifecycle.opening.open(owner, tenant, session_id, 7, create=create, resume=resume, reply_mask=OUTPUTS)
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
        b.lifecycle.held.close(before, np.array([slot]))
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
    b.lifecycle.opening.open(second, "", "s", 3, create=False, resume=True, reply_mask=OUTPUTS)
    b.steps(second, [3], [slot], [[1.0]])
    await b.engine.quiet()
    assert first.take()[1:] == [
        ("lost", 0),
        ("results", [0], [0], [6], [1, 2, 3, 4, 5, 6]),
        ("closed", "TAKEN_OVER", [0], [6]),
    ]
    assert second.take() == [("opened", 3, 6, False), ("results", [3], [6], [1], [7])]


async def test_a_model_that_is_closed_opens_no_session_and_says_why(b: Bench) -> None:
    held = b.open(owner := Recorder(), 0, "s")
    b.lifecycle.registry.closed_for = "the model is tired"
    with pytest.raises(Draining, match="the model is tired; open the session on another server"):
        await asked(b, Recorder(), "either", "new")
    b.steps(owner, [0], [held], [[1.0]])
    await b.engine.quiet()
    assert owner.take()[-1] == ("results", [0], [0], [1], [1])


async def test_gates_of_a_model_without_them_are_refused(b: Bench) -> None:
    with pytest.raises(Refused, match="gates were asked for"):
        b.lifecycle.opening.open(Recorder(), "", "", 0, create=True, resume=True, reply_mask=GATES)
    assert len(b.engine.sessions) == 0
