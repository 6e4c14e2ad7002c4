"""What is kept of a session to be sent again, and let go of as checkpoints cover it."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatestream.client.errors import GatestreamError
from gatestream.client.protocol.in_flight import InFlight
from gatestream.client.protocol.log import Budget, Log
from gatestream.client.protocol.requests import Chunk
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

# Steps that were sent and those of them that were taken, or None: a reset.
events = st.lists(st.none() | st.integers(1, 4).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))), max_size=8)


def asked(log: Log, member: int, members: int, steps: int, taken: int, position: int, offset: int) -> None:
    """Steps of one member leave and are answered, as far as they were taken."""
    column = np.arange(position, position + steps, dtype=np.float32).reshape(1, steps, 1)
    chosen = np.array([member])
    kept, size = log.leaving([column], own=False)
    chunk = Chunk(members=chosen, columns=[column], length=steps)
    in_flight = InFlight([chunk], [steps], chosen, np.array([position]), kept)
    in_flight.logged = size
    if taken < steps:
        in_flight.failures = {member: GatestreamError("refused")}
        in_flight.taken[:] = taken
    log.answered(in_flight, np.full(members, offset))


@given(events=events, durable=st.lists(st.integers(0, 40), max_size=4))
@pytest.mark.parametrize("members", [1, 3])
def test_what_lies_behind_the_durable_sequence_is_there_and_nothing_else(
    members: int, events: list[Any], durable: list[int]
) -> None:
    budget = Budget(1 << 30)
    log = Log(budget, [pb.Open() for _ in range(members)])
    member = members - 1
    position = offset = 0
    sent: list[float | None] = []
    ends = []
    for event in events:
        if event is None:
            log.was_reset(np.array([member]), np.array([position]), np.full(members, offset))
            offset += 1
            sent.append(None)
        else:
            steps, taken = event
            asked(log, member, members, steps, taken, position, offset)
            sent += range(position, position + taken)
            position += taken
        ends.append(position + offset)
    for k, at in enumerate(durable):
        log.is_durable(np.array([member]), np.array([at]))
        lowest = min(max(durable[: k + 1]), len(sent))
        pieces = log.since(member, lowest, len(sent), None)
        assert pieces is not None
        again: list[float | None] = []
        for piece in pieces:
            again += [None] if piece is None else piece[0][:, 0].tolist()
        assert again == sent[lowest:]
    # What is covered takes no room, from the first entry that is not.
    covered = max(durable, default=0)
    left = next((k for k, end in enumerate(ends) if end > covered), len(ends)) if durable else 0
    assert len(log._entries) == len(ends) - left
    assert budget.used == log.bytes
    log.gone(np.arange(members))
    assert budget.used == 0
