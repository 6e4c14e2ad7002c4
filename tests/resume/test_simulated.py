"""The real client protocol, servers and store, in whatever order things happen and go wrong."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from gatestream.server.durability import rules
from gatestream.server.durability.checkpoints import Checkpoint
from tests.resume.simulated import CALM, FAULTS, World, walk
from tests.support.artifacts import accumulator


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return accumulator(tmp_path_factory.mktemp("model") / "accumulator.onnx")


@pytest.mark.parametrize("seed", range(24))
def test_no_answer_is_lost_doubled_or_changed(path: Path, seed: int) -> None:
    seen = asyncio.run(walk(path, seed))
    assert seen["answered"] == seen["steps"] > 0


def test_a_store_that_keeps_the_tip_alone_is_found_out(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def tip(stored: tuple[Checkpoint, ...], new: Checkpoint, _: int) -> tuple[Checkpoint, ...]:
        return (max(*stored, new, key=lambda each: each.sequence),)

    monkeypatch.setattr(rules, "written", tip)

    async def all_walks() -> None:
        for seed in range(60):
            await walk(path, seed)

    with pytest.raises(AssertionError, match="NotReplayable"):
        asyncio.run(all_walks())


class Simulated(RuleBasedStateMachine):
    """The machine chooses what happens; which session or server it happens to follows from its seed."""

    path: Path

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.world: World | None = None

    def run(self, coroutine: Any) -> None:
        self.loop.run_until_complete(coroutine)

    @initialize(seed=st.integers(0, 2**16), fences=st.booleans(), sessions=st.integers(1, 3))
    def begin(self, seed: int, fences: bool, sessions: int) -> None:
        self.world = World(self.path, seed, fences=fences)
        self.run(self.world.start(sessions))

    @rule(name=st.sampled_from(CALM), times=st.integers(1, 4))
    def goes_on(self, name: str, times: int) -> None:
        assert self.world is not None
        for _ in range(times):
            self.run(self.world.do(name))

    @rule(name=st.sampled_from(FAULTS))
    def goes_wrong(self, name: str) -> None:
        assert self.world is not None
        self.run(self.world.do(name))

    def teardown(self) -> None:
        try:
            if self.world is not None:
                self.run(self.world.settle())
        finally:
            if self.world is not None:
                self.run(self.world.stop())
            self.loop.close()


def test_whatever_happens_all_is_answered_in_the_end(path: Path) -> None:
    machine = type("Here", (Simulated,), {"path": path})
    run_state_machine_as_test(machine, settings=settings(max_examples=8, stateful_step_count=40))
