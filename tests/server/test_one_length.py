"""A model that is not told how long its rows are: no row of a run is padded, however ragged the traffic."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.server.backend.runner import HostRunner
from gatestream.server.config import Limits, TickLimits
from gatestream.server.core.planner import Planner
from tests.support.any_models import summed, sums
from tests.support.in_process import Client, serving_here

HANDLES = 20
LIMITS = Limits(sessions=HANDLES, chunk_length=60)
TICK = TickLimits(rows=64, steps=16)

MESSAGES = st.lists(
    st.one_of(
        st.dictionaries(st.integers(0, HANDLES - 1), st.integers(1, 60), min_size=1, max_size=HANDLES),
        st.dictionaries(st.integers(0, HANDLES - 1), st.just(1), min_size=1, max_size=HANDLES),
        st.just({}),
    ),
    min_size=1,
    max_size=12,
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sums(tmp_path_factory.mktemp("model") / "sums.onnx")


@settings(max_examples=60)
@given(MESSAGES, st.sampled_from([0.0, float("inf")]), st.booleans())
def test_ragged_traffic_gives_each_session_what_it_gives_alone(
    path: Path, messages: list[dict[int, int]], expected: float, straight: bool
) -> None:
    asyncio.run(_live(path, messages, expected=expected, straight=straight))


async def _live(path: Path, messages: list[dict[int, int]], *, expected: float, straight: bool) -> None:
    """Send messages, of lengths by handle, and compare; every run is expected to take so many seconds."""
    rng = np.random.default_rng(0)
    sent: dict[int, list[Any]] = {handle: [] for handle in range(HANDLES)}
    got: dict[int, list[Any]] = {handle: [] for handle in range(HANDLES)}
    async with serving_here(path, limits=LIMITS, tick=TICK, straight=straight) as catalog:
        (model,) = catalog
        model.engine.rows.run_time.expected = lambda *_: expected  # type: ignore[method-assign]
        client = Client(catalog, LIMITS)
        for handle in range(HANDLES):
            await client.open(handle)
        waited = 0
        for lengths in messages:
            if not lengths:
                await asyncio.sleep(0)
                continue
            x = rng.integers(-9, 10, (sum(lengths.values()), 2)).astype("<f4")
            client.say(steps=pb.Steps(handle=list(lengths), length=list(lengths.values()), input=[x.tobytes()]))
            for handle, rows in zip(lengths, np.split(x, np.cumsum(list(lengths.values()))[:-1]), strict=True):
                sent[handle].append(rows)
            waited += len(x)
        while waited:
            results = (await client.hear()).results
            rows = np.frombuffer(results.output[0], "<f4").reshape(-1, 2)
            each = list(results.length) or [1] * len(results.handle)
            for handle, part in zip(results.handle, np.split(rows, np.cumsum(each)[:-1]), strict=True):
                got[handle].append(part)
            waited -= len(rows)
        for handle, chunks in sent.items():
            if chunks:
                np.testing.assert_array_equal(np.concatenate(got[handle]), summed(np.concatenate(chunks)))


async def test_no_run_is_ragged_and_chunks_share_runs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: Counter[tuple[int, int]] = Counter()
    step = HostRunner.step

    def watched(self: HostRunner, slots: Any, inputs: Any, lengths: Any, gates: bool) -> Any:
        assert lengths.tolist() == [inputs[0].shape[1]] * len(slots)
        runs[len(slots), inputs[0].shape[1]] += 1
        return step(self, slots, inputs, lengths, gates)

    monkeypatch.setattr(HostRunner, "step", watched)
    await _live(path, [{handle: 40 + handle for handle in range(HANDLES)}, {0: 5, 1: 7}], expected=0.0, straight=True)
    rows = sum(members * steps * count for (members, steps), count in runs.items())
    assert rows == sum(range(40, 40 + HANDLES)) + 12
    # 20 sessions by one another would have 80 runs or more.
    assert sum(runs.values()) < 50
    assert max(members for members, _ in runs) >= 16


async def test_a_short_message_of_one_length_is_still_a_run_of_its_own(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once: list[bool] = []
    brief = Planner._brief

    def watched(self: Planner, batch: Any) -> bool:
        at_once.append(brief(self, batch))
        return at_once[-1]

    monkeypatch.setattr(Planner, "_brief", watched)
    await _live(path, [{0: 4, 1: 4}, {}, {}, {}, {0: 3, 1: 4}], expected=0.0, straight=False)
    assert at_once == [True, False]
