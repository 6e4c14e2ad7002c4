"""Sequences of the Open Inference Protocol, as sessions."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gatestream.server.errors import Draining, NotFound
from tests.support.engine import Bench, Recorder, bench


@pytest.fixture
async def b(accumulator_path: Path) -> AsyncIterator[Bench]:
    async with bench(accumulator_path, sequence_timeout=5.0, idle_timeout=60.0) as made:
        yield made


async def test_a_sequence_is_held_by_nobody(b: Bench) -> None:
    holder = Recorder()
    with pytest.raises(NotFound, match="is not here"):
        b.lifecycle.sequences.session(holder, "", "sequence:5", start=False)
    slot = b.lifecycle.sequences.session(holder, "", "sequence:5", start=True)
    assert b.lifecycle.sequences.session(holder, "", "sequence:5", start=False) == slot
    assert b.engine.sessions.owner[slot] is None
    b.now = 5.5
    assert await b.lifecycle.expiry.expire() == 1


async def test_a_model_that_is_closed_starts_no_sequence_and_says_why(b: Bench) -> None:
    slot = b.lifecycle.sequences.session(Recorder(), "", "sequence:4", start=True)
    b.lifecycle.registry.closed_for = "the model is tired"
    with pytest.raises(Draining, match="the model is tired; start the sequence on another server"):
        b.lifecycle.sequences.session(Recorder(), "", "sequence:5", start=True)
    assert b.lifecycle.sequences.session(Recorder(), "", "sequence:4", start=False) == slot
