"""Models that are none of gatestream's own, on a real server, through the Python client."""

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gatestream.client import Client, aio, connect
from gatestream.client.errors import ConstantMismatchError, InputError, StateMismatchError, TokenOutOfRangeError
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.support.any_models import RATES, WINDOW, Windowed, alone, spoken, summed, sums, two_of_each, with_constants
from tests.support.process import ServerProcess, serving

SPEAKER = np.array([[1, 2, 3], [10, 20, 30]], np.float32)
WINDOWED = Windowed()


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "windowed": WINDOWED.save(folder / "windowed.onnx"),
        "two": two_of_each(folder / "two.onnx"),
        "speaker": with_constants(folder / "speaker.onnx"),
        "sums": sums(folder / "sums.onnx"),
    }


@pytest.fixture(scope="module", params=["", "deterministic"])
def server(request: pytest.FixtureRequest, paths: dict[str, Path]) -> Iterator[ServerProcess]:
    settings = {request.param: True} if request.param else {}
    with serving(*paths.values(), tick_steps=8, **settings) as running:
        yield running
        assert running.popen.poll() is None


@pytest.fixture
def gs(server: ServerProcess) -> Iterator[Client]:
    with connect(server.address) as client:
        yield client


def close(got: Any, expected: Any) -> None:
    """float32 against the equations in float64, over a few dozen steps."""
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_windows_of_int16_with_the_samples_before_them(gs: Client, paths: dict[str, Path]) -> None:
    rng = np.random.default_rng(0)
    with gs.session("windowed") as one, gs.group("windowed", 5) as group:
        audio = rng.integers(-(2**15), 2**15, (30, WINDOW)).astype(np.int16)
        got = np.concatenate([one.run(audio[:7]), one.step(audio[7])[None], one.run(audio[8:])])
        close(got, WINDOWED.scores(audio))
        (by_itself,) = zip(*alone(paths["windowed"], [{"audio": audio}]), strict=True)
        close(got, by_itself[0])
        one.reset()
        close(one.run(audio[5:9]), WINDOWED.scores(audio[5:9]))
        many = rng.integers(-999, 999, (5, 9, WINDOW)).astype(np.int16)
        every = group.run(many)
        for member in range(5):
            close(every[member], WINDOWED.scores(many[member]))
        with pytest.raises(InputError, match="whole numbers were expected"):
            one.step(audio[0] / 2**15)
        with pytest.raises(TokenOutOfRangeError, match=r"32768 came .* -32768 to 32767 was expected"):
            one.step(audio[0].astype(np.int32) * 0 + 2**15)
    described = gs.models["windowed"]
    assert (described.inputs[0].window, described.inputs[0].context) == (512, 64)
    assert [state.role for state in described.states] == [pb.STATE_ROLE_CONTEXT, pb.STATE_ROLE_HIDDEN]
    assert described.cells[0].kind == pb.CELL_KIND_RNN
    assert described.promises.rows_independent


def test_two_inputs_and_two_outputs_by_name(gs: Client) -> None:
    rng = np.random.default_rng(1)
    values, take = rng.integers(-9, 9, (20, 3)).astype(np.float32), rng.random(20) < 0.5
    total, count = np.cumsum(values * take[:, None], axis=0), np.cumsum(take)
    with gs.session("two") as session:
        first = session.step({"take": bool(take[0]), "values": values[0]})
        np.testing.assert_array_equal(first["total"], total[0])
        assert first["count"].dtype == np.int64
        assert first["count"].item() == count[0]
        rest = session.run({"values": values[1:15], "take": take[1:15]})
        np.testing.assert_array_equal(rest["total"], total[1:15])
        np.testing.assert_array_equal(rest["count"], count[1:15])
        rows = ({"values": values[k].tolist(), "take": int(take[k])} for k in range(15, 20))
        streamed = list(session.stream(rows))
        np.testing.assert_array_equal([each["total"] for each in streamed], total[15:])
        assert [each["count"].item() for each in streamed] == count[15:].tolist()
        assert session.last.returned.keys() == {"total", "count"}
        with pytest.raises(InputError, match="has the inputs 'values', 'take': pass a mapping"):
            session.step(values[0])
        with pytest.raises(InputError, match="true or false, 1 or 0, was expected"):
            session.step({"values": values[0], "take": 2})
    with gs.group("two", 3) as group:
        got = group.run({"values": np.stack([values] * 3), "take": np.stack([take] * 3)}, lengths=[20, 1, 7])
        np.testing.assert_array_equal(got["count"][2], np.where(np.arange(20) < 7, count, 0))


def test_a_constant_of_each_session(gs: Client, server: ServerProcess) -> None:
    x = np.arange(15, dtype=np.float32).reshape(5, 3)
    with gs.session("speaker", id="s", constants={"speaker": SPEAKER}) as session:
        with gs.session("speaker", constants={"speaker": 2 * SPEAKER, "rate": [0, 0, 1]}) as other:
            np.testing.assert_array_equal(session.run(x), spoken(x, SPEAKER))
            np.testing.assert_array_equal(other.run(x), spoken(x, 2 * SPEAKER, np.array([0, 0, 1])))
            kept = session.get_state()
            assert kept.arrays.keys() == {"speaker", "s", "rate"}
            np.testing.assert_array_equal(kept.arrays["rate"], RATES)
            with pytest.raises(ConstantMismatchError, match="'speaker' is another"):
                other.set_state(kept)
            with pytest.raises(StateMismatchError):
                other.set_state(type(kept)(kept.model, kept.weights_fingerprint, 0, {}))
        session.reset()
        np.testing.assert_array_equal(session.run(x), spoken(x, SPEAKER))
        twin = session.fork()
        with connect(server.address) as gs_2, gs_2.session("speaker", id=twin, mode="resume") as copy:
            copy.reset()
            np.testing.assert_array_equal(copy.run(x), spoken(x, SPEAKER))
            with pytest.raises(ConstantMismatchError), gs_2.session("speaker", id="s", constants={"speaker": x[:2]}):
                pass
            # Whoever asked for other constants has taken nothing.
            session.step(x[0])
            with gs_2.session("speaker", id="s", constants={"speaker": SPEAKER, "rate": RATES}) as taken:
                assert taken.position == 11
    each = np.stack([SPEAKER * k for k in range(4)])
    with gs.group("speaker", 4, constants={"speaker": each, "rate": [1, 1, 1]}) as group:
        got = group.run(np.stack([x] * 4))
        for member in range(4):
            np.testing.assert_array_equal(got[member], spoken(x, each[member], np.ones(3)))


@pytest.mark.parametrize(
    ("constants", "says"),
    [
        (None, "constant 'speaker' was not given"),
        ({"speaker": SPEAKER[0]}, r"constant 'speaker' of 'speaker': shape \[3\] came; \[2, 3\].* was expected"),
        ({"speaker": SPEAKER, "voice": 1}, "constant 'voice' of 'speaker' came; it has 'speaker', 'rate'"),
        ({"speaker": SPEAKER * np.nan}, r"constant 'speaker' of 'speaker': nan came at \[0, 0\]; finite numbers"),
        ({"speaker": [["a"] * 3] * 2}, "text came; numbers were expected"),
    ],
)
def test_a_constant_that_does_not_fit(gs: Client, constants: Any, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught, gs.session("speaker", constants=constants):
        pass
    assert "\n" not in str(caught.value)
    assert not list(gs.list_sessions("speaker"))


def test_constants_with_asyncio(server: ServerProcess) -> None:
    x = np.ones((4, 3), np.float32)

    async def live() -> Any:
        async with aio.connect(server.address) as gs, gs.session("speaker", constants={"speaker": SPEAKER}) as session:
            first = await session.run(x)
            with pytest.raises(ConstantMismatchError):
                await gs.session("speaker", id=session.id, constants={"speaker": -SPEAKER})
            async with gs.group("speaker", 2, constants={"speaker": SPEAKER}) as group:
                return first, await group.run(np.stack([x, x]))

    one, both = asyncio.run(live())
    for got in (one, *both):
        np.testing.assert_array_equal(got, spoken(x, SPEAKER))


def test_ragged_chunks_of_20_sessions_without_lengths_in_the_graph(
    server: ServerProcess, paths: dict[str, Path]
) -> None:
    chunks: list[list[Any]] = []
    given: list[list[Any]] = [[] for _ in range(20)]
    for seed in range(20):
        rng = np.random.default_rng(seed)
        chunks.append([rng.integers(-9, 10, (size, 2)).astype(np.float32) for size in rng.integers(1, 60, 25)])

    def live(gs: Client, k: int) -> None:
        with gs.session("sums") as session:
            for chunk in chunks[k]:
                given[k].append(session.run(chunk))

    with connect(server.address) as gs:
        threads = [threading.Thread(target=live, args=(gs, k)) for k in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for k in range(20):
        expected = alone(paths["sums"], [{"x": chunk} for chunk in chunks[k]])
        for got, (y,) in zip(given[k], expected, strict=True):
            np.testing.assert_array_equal(got, y)
        np.testing.assert_array_equal(np.concatenate(given[k]), summed(np.concatenate(chunks[k])))


def test_what_a_model_does_not_promise_is_served_and_said(tmp_path: Path) -> None:
    promises = pb.Promises(replay_bit_equal=True, unproved_states=["s"])
    path = sums(tmp_path / "sums.onnx", promises=promises)
    with serving(path) as server, connect(server.address) as gs, gs.session() as session:
        np.testing.assert_array_equal(session.step([1, 2]), [1, 2])
        log = server.log.read_text()
        assert "does not promise rows_independent" in log
        [said] = [line for line in log.splitlines() if "its proof could not tell" in line]
        assert json.loads(said)["states"] == ["s"]
    with pytest.raises(RuntimeError, match=r"with --deterministic: its spec does not promise") as caught:
        serving(path, deterministic=True).__enter__()
    assert "Traceback" not in str(caught.value)
