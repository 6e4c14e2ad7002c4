"""Every event in every phase: the next phase, or the error that says why there is none."""

import numpy as np
import pytest

from gatestream.server.core.transitions import TRANSITIONS, Event, IllegalTransition, Phase, after
from gatestream.server.errors import AlreadyExists, NotFound

WALK = """
          CREATE ATTACH     DETACH     PARK    RESTORE    RESTORED  CLOSE    END
CLOSED    NEW    -          bug        -       -          bug       -        bug
NEW       exists RESIDENT   DETACHED   bug     bug        bug       bug      CLOSED
RESIDENT  exists RESIDENT   DETACHED   PARKED  bug        bug       CLOSING  CLOSED
DETACHED  exists RESIDENT   DETACHED   PARKED  bug        bug       CLOSING  CLOSED
PARKED    exists PARKED     PARKED     bug     RESTORING  bug       CLOSING  CLOSED
RESTORING exists RESTORING  RESTORING  bug     bug        DETACHED  CLOSING  CLOSED
CLOSING   bug    -          bug        -       -          CLOSING   -        CLOSED
"""
"""Of each phase and each event, what comes of it; -: the session is not there."""
ERRORS = {"-": NotFound, "exists": AlreadyExists, "bug": IllegalTransition}

_, EVENTS, *ROWS = WALK.splitlines()
CASES = [
    (Phase[row.split()[0]], Event[event], expected)
    for row in ROWS
    for event, expected in zip(EVENTS.split(), row.split()[1:], strict=True)
]


def test_the_walk_leaves_nothing_out() -> None:
    assert {(phase, event) for phase, event, _ in CASES} == {(phase, event) for phase in Phase for event in Event}
    assert set(TRANSITIONS) == set(Phase)


@pytest.mark.parametrize(("phase", "event", "expected"), CASES)
def test_each_event_in_each_phase(phase: Phase, event: Event, expected: str) -> None:
    one, many = np.int8(phase), np.array([phase, phase], np.int8)
    if expected in ERRORS:
        for phases in (one, many):
            with pytest.raises(ERRORS[expected]):
                after(phases, event)
    else:
        assert Phase(int(after(one, event))) is Phase[expected]
        assert after(many, event).tolist() == [Phase[expected]] * 2


def test_of_many_the_first_that_cannot_says_why() -> None:
    with pytest.raises(NotFound):
        after(np.array([Phase.RESIDENT, Phase.CLOSING, Phase.PARKED], np.int8), Event.ATTACH)
    with pytest.raises(IllegalTransition, match="a session that is PARKED cannot RESTORED"):
        after(np.array([Phase.CLOSING, Phase.PARKED, Phase.NEW], np.int8), Event.RESTORED)


def test_of_none_there_is_none() -> None:
    assert after(np.empty(0, np.int8), Event.END).tolist() == []


def test_every_phase_can_be_reached_and_left() -> None:
    reached = {Phase.CLOSED}
    for _ in Phase:
        reached |= {following for phase in reached for following in TRANSITIONS[phase].values()}
    assert reached == set(Phase)
    for phase in set(Phase) - {Phase.CLOSED}:
        assert TRANSITIONS[phase][Event.END] is Phase.CLOSED, "whatever happens, it can end"
