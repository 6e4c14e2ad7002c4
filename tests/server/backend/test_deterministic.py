"""Ticks in fixed shapes, on the real runner: bit for bit what each session gives alone, a step at a time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from gatestream.server.backend.artifact import Artifact
from gatestream.server.backend.bit_exact import Shapes, agreeing_shapes
from gatestream.server.backend.deterministic import DeterministicRunner, plan
from gatestream.server.backend.runner import HostRunner, Runner
from gatestream.server.config import ServerConfig, TickLimits
from gatestream.server.errors import ArtifactError, ConfigError
from tests.support import dependent
from tests.support.artifacts import POISON
from tests.support.lstm import Lstm

LSTM = Lstm.random(features=3, hidden=16)
LIMITS = TickLimits(rows=40, steps=16)
CAPACITY = 70
KINDS: dict[str, Callable[[Path], Path]] = {
    "plain": lambda path: path,
    "unpacked": dependent.unpack,
    "quantised": dependent.quantise,
}


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("dependent")
    return {kind: change(LSTM.save(folder / f"{kind}.onnx")) for kind, change in KINDS.items()}


def host(path: Path, threads: int = 1) -> HostRunner:
    return HostRunner(Artifact.load(path), CAPACITY, threads)


def deterministic(path: Path, limits: TickLimits = LIMITS, threads: int = 1) -> DeterministicRunner:
    return DeterministicRunner(host(path, threads), Artifact.load(path).spec, limits)


# ---- The runs that a tick is made of --------------------------------------------------------------


@st.composite
def some_shapes(draw: st.DrawFn) -> Shapes:
    sizes = st.lists(st.integers(1, 12), min_size=1, unique=True).map(sorted)
    singles = draw(sizes)
    more = st.lists(st.sampled_from(singles), min_size=1, unique=True).map(sorted)
    return {1: singles, **draw(st.dictionaries(st.integers(2, 9), more, max_size=3))}


@given(shapes=some_shapes(), lengths=st.lists(st.integers(1, 40), min_size=1, max_size=40))
def test_every_step_of_every_row_is_run_once_and_in_order(shapes: Shapes, lengths: list[int]) -> None:
    done = np.zeros(len(lengths), np.int64)
    for rows, begin, steps, size in plan(shapes, np.array(lengths, np.int32)):
        assert size in shapes[steps]
        assert len(rows) <= size
        taken = np.minimum(np.array(lengths)[rows] - begin, steps)
        assert taken.min() >= 1
        # A run in which no row is as long as its time axis would have another shape to the kernels.
        assert taken.max() == steps
        np.testing.assert_array_equal(done[rows], begin)
        done[rows] += taken
    np.testing.assert_array_equal(done, lengths)


# ---- The bits -------------------------------------------------------------------------------------


class Played:
    """Sessions that step in any company; and what each has taken and given."""

    def __init__(self, runner: Runner):
        self.runner = runner
        self.taken: dict[int, list[Any]] = {}
        self.given: dict[int, list[bytes]] = {}

    def tick(self, slots: list[int], lengths: list[int], rng: np.random.Generator, gates: bool) -> None:
        scale = 10 ** rng.uniform(-2, 1, (len(slots), 1, 1))
        x = (scale * rng.standard_normal((len(slots), max(lengths), LSTM.features))).astype(np.float32)
        outputs, _ = self.runner.step(np.array(slots), [x], np.array(lengths, np.int32), gates)
        states = self.runner.read(np.array(slots))
        for k, (slot, length) in enumerate(zip(slots, lengths, strict=True)):
            self.taken.setdefault(slot, []).append(x[k, :length])
            given = self.given.setdefault(slot, [])
            given += [outputs[0][k, t].tobytes() for t in range(length)]
            # Of the states, the last step's: an odd bit in one before it would be in these too.
            given[-1] += b"".join(state[k].tobytes() for state in states)

    def alone(self, runner: Runner) -> dict[int, list[bytes]]:
        """The same sessions, one after another, a step at a time."""
        found = {}
        for slot, chunks in self.taken.items():
            given: list[bytes] = []
            runner.write(np.array([0]), [np.zeros((1, 1, LSTM.hidden), np.float32)] * 2)
            for chunk in chunks:
                for x in chunk:
                    outputs, _ = runner.step(np.array([0]), [x[None, None]], np.ones(1, np.int32), gates=False)
                    given.append(outputs[0].tobytes())
                given[-1] += b"".join(state.tobytes() for state in runner.read(np.array([0])))
            found[slot] = given
        return found


TICK = st.tuples(
    st.permutations(range(CAPACITY)),
    st.one_of(st.integers(1, 4), st.integers(1, CAPACITY)),
    st.one_of(st.just(1), st.integers(1, 40)),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)


def play(runner: Runner, ticks: list[Any]) -> Played:
    played = Played(runner)
    for order, size, longest, seed, gates in ticks:
        rng = np.random.default_rng(seed)
        played.tick(order[:size], rng.integers(1, longest + 1, size).tolist(), rng, gates)
    return played


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_gives_the_same_bits_in_any_company(paths: dict[str, Path], kind: str, threads: int) -> None:
    crowd, alone = deterministic(paths[kind], threads=threads), deterministic(paths[kind], threads=threads)

    @settings(max_examples=25)
    @given(ticks=st.lists(TICK, min_size=1, max_size=5))
    def check(ticks: list[Any]) -> None:
        crowd.write(np.arange(CAPACITY), [np.zeros((CAPACITY, 1, LSTM.hidden), np.float32)] * 2)
        played = play(crowd, ticks)
        assert played.given == played.alone(alone)

    check()


@pytest.mark.parametrize("gates", [False, True])
def test_gates_are_the_same_bits_too(paths: dict[str, Path], gates: bool) -> None:
    runner = deterministic(paths["unpacked"])
    x = np.random.default_rng(0).standard_normal((9, 5, LSTM.features)).astype(np.float32)
    lengths = np.array([5, 1, 2, 3, 4, 5, 1, 1, 5], np.int32)
    _, together = runner.step(np.arange(9), [x], lengths, gates)
    assert len(together) == (4 if gates else 0)
    for k in range(9):
        _, alone = runner.step(np.array([20 + k]), [x[k : k + 1, : lengths[k]]], lengths[k : k + 1], gates)
        for a, b in zip(together, alone, strict=True):
            assert a[k, : lengths[k]].tobytes() == b[0].tobytes()


def test_the_numbers_are_those_of_the_equations(paths: dict[str, Path]) -> None:
    runner = deterministic(paths["plain"])
    x = np.random.default_rng(0).standard_normal((45, 37, LSTM.features)).astype(np.float32)
    lengths = np.random.default_rng(1).integers(1, 38, 45).astype(np.int32)
    outputs, gates = runner.step(np.arange(45), [x], lengths, True)
    for k, length in enumerate(lengths):
        expected, activations = LSTM.run(x[k, :length])
        np.testing.assert_allclose(outputs[0][k, :length], expected, atol=1e-5)
        for got, activation in zip(gates, activations.values(), strict=True):
            np.testing.assert_allclose(got[k, :length, 0], activation, atol=1e-5)


def test_without_fixed_shapes_the_company_shows(paths: dict[str, Path]) -> None:
    # That the tests above can fail.
    ticks = [(range(CAPACITY), 5, 1, seed, False) for seed in range(5)]
    played = play(host(paths["quantised"]), ticks)
    assert played.given != played.alone(host(paths["quantised"]))
    with_fixed = play(deterministic(paths["quantised"]), ticks)
    assert with_fixed.taken.keys() == played.taken.keys()
    assert with_fixed.given != played.given


# ---- What is found out at the start -----------------------------------------------------------------


def test_where_a_batch_shares_a_scale_every_row_runs_alone(paths: dict[str, Path]) -> None:
    path = paths["quantised"]
    assert agreeing_shapes(host(path), Artifact.load(path).spec, LIMITS) == {1: (1,)}


@pytest.mark.parametrize("rows", [1, 2, 5, 40, 10_000])
@pytest.mark.parametrize("kind", ["plain", "unpacked"])
def test_the_shapes_keep_within_the_limits_and_agree(paths: dict[str, Path], kind: str, rows: int) -> None:
    path, limits = paths[kind], TickLimits(rows=rows, steps=5)
    runner = host(path)
    shapes = agreeing_shapes(runner, Artifact.load(path).spec, limits)
    assert set(shapes) <= {1, 2, 4}
    x = np.random.default_rng(7).standard_normal((512, 4, LSTM.features)).astype(np.float32)
    states = [np.zeros((512, 1, LSTM.hidden), np.float32)] * 2
    for steps, sizes in shapes.items():
        found = set()
        for size in sizes:
            assert size <= min(rows, shapes[1][-1])
            # The first row of all, in the middle of each.
            order = np.roll(np.arange(size), size // 2)
            outputs, after, _ = runner.compute(
                [x[order, :steps]], np.full(size, steps, np.int32), [state[order] for state in states], False
            )
            found.add(b"".join(a[size // 2].tobytes() for a in (*outputs, *after)))
        assert len(found) == 1


def test_a_model_that_draws_random_numbers_is_refused(tmp_path: Path) -> None:
    path = dependent.randomise(LSTM.save(tmp_path / "random.onnx"))
    with pytest.raises(ArtifactError, match=r"'lstm' cannot be served with deterministic.*random numbers"):
        deterministic(path)


def test_exported_models_and_other_states_are_no_matter(accumulator_path: Path, lstm_path: Path) -> None:
    for path in (accumulator_path, lstm_path):
        assert 8 in agreeing_shapes(host(path), Artifact.load(path).spec, LIMITS)[1]


# ---- What every runner promises ---------------------------------------------------------------------


def test_when_a_later_run_of_a_tick_fails_no_row_has_changed(accumulator_path: Path) -> None:
    runner = deterministic(accumulator_path)
    slots, lengths = np.array([2, 5]), np.array([3, 1], np.int32)
    x = np.array([[[1, 2]] * 3, [[3, 4]] * 3], np.float32)
    runner.step(slots, [x], lengths, False)
    poisoned = x.copy()
    poisoned[0, 2] = POISON
    with pytest.raises(Exception, match="indices element out of data bounds"):
        runner.step(slots, [poisoned], lengths, False)
    np.testing.assert_array_equal(runner.read(slots)[0], [[3, 6], [3, 4]])
    outputs, _ = runner.step(slots, [x], lengths, False)
    np.testing.assert_array_equal(outputs[0][0, :3], [[4, 8], [5, 10], [6, 12]])
    np.testing.assert_array_equal(outputs[0][1, 0], [6, 8])


def test_cuda_is_refused() -> None:
    with pytest.raises(ConfigError, match="deterministic is promised on the CPU alone"):
        ServerConfig(artifacts=(Path("model.onnx"),), deterministic=True, provider="cuda")
