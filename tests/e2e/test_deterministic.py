"""`--deterministic`: what a session gives is, bit for bit, what it gives alone on another server, a step at a time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.e2e.crowd import Crowd, failed_in_a_tick
from tests.support import dependent
from tests.support.lstm import Lstm
from tests.support.process import ServerProcess, serving
from tests.support.wire import Stream, encode, parts

LSTM = Lstm.random(features=3, hidden=16)
# In the first, onnxruntime 1.31 gives a row the same bits in any company; in the others it does not.
MODELS: dict[str, Callable[[Path], Path]] = {
    "plain": lambda path: path,
    "unpacked": dependent.unpack,
    "quantised": dependent.quantise,
}


@dataclass(frozen=True)
class Watched:
    """What one session does.

    Attributes:
        lengths: of its chunks.
        reset: before which of them it is reset.
        gates: whether it asks for them, when it is not alone.
        seed: of its inputs.
    """

    lengths: list[int]
    reset: int
    gates: bool
    seed: int

    def halves(self) -> list[tuple[np.ndarray, list[int]]]:
        """The inputs [steps, features] and chunks before the reset, and those after it."""
        rng = np.random.default_rng(self.seed)
        parts = self.lengths[: self.reset], self.lengths[self.reset :]
        return [(rng.standard_normal((sum(part), LSTM.features)).astype(np.float32), part) for part in parts]


WATCHED = st.builds(
    Watched,
    lengths=st.lists(st.one_of(st.just(1), st.integers(2, 90)), min_size=1, max_size=8),
    reset=st.integers(0, 8),
    gates=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    saved = {name: LSTM.save(folder / f"{name}.onnx", name) for name in MODELS}
    return [dependent.embrittle(MODELS[name](path)) for name, path in saved.items()]


@pytest.fixture(scope="module")
def alone(artifacts: list[Path]) -> Iterator[ServerProcess]:
    with serving(*artifacts, deterministic=True) as server:
        yield server


@pytest.fixture(scope="module")
def crowded(artifacts: list[Path]) -> Iterator[ServerProcess]:
    with serving(*artifacts, deterministic=True) as server:
        yield server


def by_itself(server: ServerProcess, model: str, watched: Watched) -> list[list[bytes]]:
    """By step: the output, and the four gates."""
    with Stream(server.address) as stream:
        stream.opened(0, model=model, gates=True)
        given: list[list[bytes]] = []
        for half in watched.halves():
            for x in half[0]:
                stream.steps({0: x})
                given += _rows(stream.expect("results"))
            stream.reset(0)
            stream.expect("reset_done")
    return given


def among_others(server: ServerProcess, model: str, all_watched: list[Watched]) -> list[list[list[bytes]]]:
    """All of them at once on one stream, sent without waiting; what failed through others' fault is sent again."""
    given: list[list[list[bytes]]] = [[] for _ in all_watched]
    with Stream(server.address) as stream:
        for handle, watched in enumerate(all_watched):
            stream.opened(handle, model=model, gates=watched.gates)
        for half in range(2):
            inputs, lengths = zip(*(watched.halves()[half] for watched in all_watched), strict=True)
            # What is to be sent, by session: chunks of inputs.
            left = [np.split(x, np.cumsum(cuts)[:-1]) if cuts else [] for x, cuts in zip(inputs, lengths, strict=True)]
            before = [len(steps) for steps in given]
            while any(left):
                outstanding = sum(len(chunk) for queue in left for chunk in queue)
                position = [len(steps) for steps in given]
                for k in range(max(map(len, left))):
                    chunks = {handle: queue[k] for handle, queue in enumerate(left) if k < len(queue)}
                    # With positions, so that nothing is taken that was sent before it was known what had failed.
                    stream.steps(chunks, [position[handle] for handle in chunks])
                    for handle, chunk in chunks.items():
                        position[handle] += len(chunk)
                while outstanding:
                    message = stream.read()
                    if message.HasField("error"):
                        assert failed_in_a_tick(message.error), message
                        outstanding -= sum(message.error.length)
                        continue
                    for handle, steps in _by_session(message.results).items():
                        given[handle] += steps
                        outstanding -= len(steps)
                taken = [len(steps) - start for steps, start in zip(given, before, strict=True)]
                left = [[x[begin:]] if begin < len(x) else [] for x, begin in zip(inputs, taken, strict=True)]
            stream.reset(*range(len(all_watched)))
            stream.expect("reset_done")
    return given


def differing(given: list[list[bytes]], expected: list[list[bytes]]) -> list[int]:
    """The steps whose bits are not the same."""
    assert len(given) == len(expected)
    return [k for k, (got, wanted) in enumerate(zip(given, expected, strict=True)) if got != wanted]


def _rows(results: pb.Results) -> list[list[bytes]]:
    """By step, the rows of all columns, of results of one session."""
    (found,) = _by_session(results).values()
    return found


def _by_session(results: pb.Results) -> dict[int, list[list[bytes]]]:
    columns = [parts(results, LSTM.hidden, column=column) for column in (*results.output, *results.gate)]
    return {
        entry[0][0]: [[row.tobytes() for row in step] for step in zip(*(rows for _, _, rows in entry), strict=True)]
        for entry in zip(*columns, strict=True)
    }


@pytest.mark.timeout(600)
@pytest.mark.parametrize("neighbours", [63, *(pytest.param(count, marks=pytest.mark.slow) for count in (1, 7, 500))])
@pytest.mark.parametrize("model", MODELS)
def test_the_bits_are_those_of_the_session_alone(
    alone: ServerProcess, crowded: ServerProcess, model: str, neighbours: int
) -> None:
    @settings(max_examples=8, suppress_health_check=list(HealthCheck))
    @given(all_watched=st.lists(WATCHED, min_size=1, max_size=3))
    def check(all_watched: list[Watched]) -> None:
        given = among_others(crowded, model, all_watched)
        for watched, steps in zip(all_watched, given, strict=True):
            expected = by_itself(alone, model, watched)
            assert differing(steps, expected if watched.gates else [row[:1] for row in expected]) == []

    with Crowd(crowded.address, model, LSTM.features, neighbours) as crowd:
        check()
    assert {"step", "chunk"} <= crowd.done.keys()


def test_without_it_neighbours_show(artifacts: list[Path], alone: ServerProcess) -> None:
    # That the test above can fail.
    watched = Watched([1, 30, 1, 60] * 3, 8, True, 0)
    with serving(*artifacts) as server, Crowd(server.address, "quantised", LSTM.features, 63):
        (given,) = among_others(server, "quantised", [watched])
    expected = by_itself(alone, "quantised", watched)
    assert differing(given, expected) != []


def test_the_reference_model(reference: Path) -> None:
    tokens = np.random.default_rng(0).integers(0, 7, 150)
    for form in ("gates", "fused"):
        found = []
        with serving(reference / f"reber.{form}.onnx", deterministic=True) as server, Stream(server.address) as stream:
            for handle, cuts in enumerate(([], range(1, 150), [1, 2, 66, 149])):
                stream.opened(handle)
                for chunk in np.split(tokens, cuts):
                    steps = pb.Steps(handle=[handle], length=[len(chunk)], input=[encode(chunk, "<i8")])
                    stream.send(pb.ClientMessage(steps=steps))
                got = b""
                while len(got) < 150 * 7 * 4:
                    got += stream.expect("results").output[0]
                found.append(got)
        assert found[0] == found[1] == found[2]
