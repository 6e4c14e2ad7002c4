"""The load generator against a real server: what it counts, never how fast."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.harness.bench import QUICK, Bench
from benchmarks.harness.generator import build
from benchmarks.harness.processes import Announced, ContenderError, Gatestream, Instrument
from tests.support.artifacts import accumulator
from tests.support.lstm import Lstm

pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None or shutil.which("make") is None, reason="the load generator needs g++ and make"
)
ROW = ("--model=accumulator", "--features=2", "--outputs=2")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gatestream]:
    path = accumulator(tmp_path_factory.mktemp("model") / "model.onnx")
    with Gatestream(path, {"chunk_length": 20_000, "rows_per_stream": 40_000}) as process:
        yield process


def load(server: Gatestream | Announced, *arguments: str) -> Instrument:
    return Instrument([build(), *arguments, f"--port={server.port}", f"--pid={server.pid}"])


@pytest.mark.parametrize(
    ("shape", "lanes", "steps"),
    [
        ((), 1, 1),
        (("--streams=6", "--connections=3"), 6, 1),
        (("--sessions=300", "--in-flight=2"), 2, 300),
        (("--sessions=5", "--blocks=4", "--idle=7", "--steps=3"), 1, 15),
        # 160 kB of request and of answer: more than HTTP/2's first windows hold.
        (("--sessions=2", "--steps=10000"), 1, 20_000),
        (("--sessions=5", "--blocks=4", "--idle=7", "--keep"), 1, 5),
    ],
    ids=["one", "streams", "packed", "blocks", "large", "kept"],
)
def test_every_step_is_counted_once(server: Gatestream, shape: tuple[str, ...], lanes: int, steps: int) -> None:
    with load(server, "gatestream", *ROW, *shape) as instrument:
        figures = instrument.count(9)
        assert figures["messages"] == 9 * lanes
        assert figures["steps"] == 9 * lanes * steps
        assert figures["request_bytes"] > 8 * steps
        instrument.count(3)
        instrument.close()


def test_windows_by_time(server: Gatestream) -> None:
    with load(server, "gatestream", *ROW, "--streams=4") as instrument:
        closed = instrument.measure(0.1, 0.4)
        assert closed["messages"] == closed["steps"] > 0
        assert closed["p50_us"] <= closed["p99_us"] <= closed["max_us"]
        assert closed["server_cpu_us"] > 0
        even = instrument.measure(0.0, 0.5, rate=100)
        # Due or answered, none is lost; the last may be due as the window ends.
        assert 48 <= even["messages"] + even["backlog"] <= 52
        instrument.close()


def test_a_refusal_ends_the_load(server: Gatestream) -> None:
    with (
        load(server, "gatestream", "--model=another") as instrument,
        pytest.raises(ContenderError, match=r"load: the server refused.*another"),
    ):
        instrument.count(1)


def test_an_answer_of_another_size_ends_the_load(server: Gatestream) -> None:
    with (
        load(server, "gatestream", "--model=accumulator", "--features=2", "--outputs=3") as instrument,
        pytest.raises(ContenderError, match="1 rows with 8 bytes of output"),
    ):
        instrument.count(1)


def test_an_echo_comes_back() -> None:
    path = "--path=/benchmark.Limit/Echo"
    with Announced("echo") as echo, load(echo, "opaque", path, "--bytes=100000", "--streams=3") as instrument:
        assert instrument.count(5)["messages"] == 15
        instrument.close()


def test_two_echoes_on_one_port() -> None:
    with Bench(QUICK, "echoes") as bench:
        first, second = bench.echoes(2)
        assert first.port == second.port
        load = bench.echo_load(first, 100, pid=second.pid, streams=16, connections=16)
        assert load.count(5)["messages"] == 80


def test_an_echo_that_makes_a_run_for_each_message(tmp_path: Path) -> None:
    path = Lstm.random().save(tmp_path / "lstm.onnx")
    echo_load = "opaque", "--path=/benchmark.Limit/Echo", "--bytes=100", "--sessions=2", "--steps=3"
    with Announced("both", [path, "--batch=2", "--steps=3"]) as both, load(both, *echo_load) as instrument:
        assert instrument.count(5)["steps"] == 30
        instrument.close()


def test_the_open_inference_protocol(server: Gatestream) -> None:
    with load(server, "inference", *ROW, "--streams=5", "--steps=2") as instrument:
        assert instrument.count(7)["steps"] == 70
        instrument.close()
