"""What ends sessions, and what their owners hear of it."""

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from gatestream.server.core.reply_sink import CloseReason
from gatestream.server.errors import NotFound
from tests.support.engine import Bench, Recorder, bench


@pytest.fixture
async def b(accumulator_path: Path) -> AsyncIterator[Bench]:
    async with bench(accumulator_path, sequence_timeout=5.0, idle_timeout=60.0) as made:
        yield made


async def test_what_ends_sessions(b: Bench) -> None:
    owner, gone = Recorder(), Recorder()
    slots = np.array([b.open(owner, handle, f"s{handle}") for handle in range(4)])
    left = b.open(gone, 9)
    owner.take()
    b.lifecycle.held.close(owner, slots[:1])
    assert await b.lifecycle.named.close("", "s1") == 0
    b.lifecycle.held.disconnected(gone, np.array([left]))
    await b.engine.quiet()
    b.now = 61.0
    assert await b.lifecycle.expiry.expire() == 2
    assert sorted(owner.take()) == [
        ("closed", "ADMINISTERED", [1], [0]),
        ("closed", "IDLE", [2, 3], [0, 0]),
        ("closed", "REQUESTED", [0], [0]),
    ]
    assert len(b.engine.sessions) == 0
    with pytest.raises(NotFound):
        await b.lifecycle.named.close("", "s1")
    b.open(owner, 0)
    owner.take()
    await b.lifecycle.expiry.end_all(CloseReason.DRAINED)
    assert owner.take() == [("closed", "DRAINED", [0], [0])]
