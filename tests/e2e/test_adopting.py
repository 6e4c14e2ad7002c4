"""A file that nobody has prepared, served by one command."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from onnx import TensorProto

from gatestream.client import connect
from gatestream.export.adopting.adopt import adopt
from gatestream.export.adopting.options import Options
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.support.process import serving, start
from tests.support.strangers.generators import ADOPTED, REFUSED
from tests.support.strangers.graph import Graph
from tests.support.strangers.oracle import Oracle
from tests.support.wire import Stream


@pytest.mark.parametrize(("name", "workers"), [("lstm_exposed", 1), ("window", 2)])
def test_a_strangers_file_is_adopted_and_served(name: str, workers: int, tmp_path: Path) -> None:
    stranger = ADOPTED[name](tmp_path)
    oracle = Oracle(stranger)
    xs = oracle.sample(12, seed=1)
    [x], [y] = xs.values(), oracle.run(xs).values()
    with serving(stranger.path, workers=workers) as server:
        with connect(server.address) as client, client.session(stranger.name) as session:
            singly = np.stack([session.step(row) for row in x[:5]])
            found = np.concatenate([singly, session.run(x[5:])])
        logged = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
    assert found == pytest.approx(y, abs=1e-5)
    # Of several workers one adopts it, and the others have what came of it.
    [told] = [line["found"] for line in logged if line["event"] == "adopted"]
    assert any(line.startswith("state") and "->" in line for line in told)


def test_what_cannot_be_found_out_is_told_with_the_flag_and_nothing_is_served(tmp_path: Path) -> None:
    path = ADOPTED["sample_rate"](tmp_path).path
    with pytest.raises(RuntimeError, match="--constant sr=VALUE") as raised:
        start(path)
    assert f"Error: {path}: gatestream adopt: " in str(raised.value)


def greedy(folder: Path, numbers: int) -> Path:
    """A small file whose steps take so many numbers for each row."""
    g = Graph("greedy")
    x, s = g.input("x", ["batch", 3]), g.input("s", ["batch", 2])
    y, s_next = g.output("y", ["batch", 1]), g.output("s_next", ["batch", 2])
    wide = g.node("Expand", g.node("ReduceMax", x, axes=[1], keepdims=1), g.constant([1, numbers]))
    g.node("Tanh", g.node("Add", s, g.node("ReduceMax", wide, axes=[1], keepdims=1)), out=s_next)
    g.node("ReduceMax", wide, axes=[1], keepdims=1, out=y)
    return g.save(folder)


def test_adopting_takes_no_longer_than_it_may(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"was not adopted within 1 s \(--adopt-seconds\)"):
        start(greedy(tmp_path, 2**24), adopt_seconds=1)


def test_adopting_takes_no_more_memory_than_it_may(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"out of memory: .*it may use 640 MiB of memory \(--adopt-mib\)"):
        start(greedy(tmp_path, 2**28), adopt_mib=640)


def test_what_cannot_be_streamed_is_not_served(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="gatestream adopt"):
        start(REFUSED["padded_convolution"](tmp_path).path)


def test_a_model_without_states_is_served_where_that_was_asked_for(tmp_path: Path) -> None:
    stranger = REFUSED["no_state"](tmp_path)
    output = tmp_path / "stateless.onnx"
    assert adopt(stranger.path, output, Options(stateless=True)).report.passed
    oracle = Oracle(stranger)
    xs = oracle.sample(6, seed=2)
    [x], [y] = xs.values(), oracle.run(xs).values()
    with serving(output) as server, connect(server.address) as client, client.session(stranger.name) as session:
        found = np.concatenate([session.step(x[0])[None], session.run(x[1:])])
    assert found == pytest.approx(y, abs=1e-5)


def test_numbers_that_a_model_fails_on_are_refused_to_those_who_send_them(tmp_path: Path) -> None:
    """Ids are divided before a table is indexed by them: how large they may be is not found."""
    g = Graph("buckets")
    ids, h = g.input("ids", ["batch", "time"], TensorProto.INT64), g.input("h", [1, "batch", 3])
    y, h_next = g.output("y", ["batch", "time", 3]), g.output("h_next", [1, "batch", 3])
    rows = g.node("Gather", g.weight(8, 3), g.node("Div", ids, g.constant(10_000)))
    g.gru(g.node("Transpose", rows, perm=[1, 0, 2]), 3, 3, h, out=["all", h_next])
    g.node("Transpose", g.node("Squeeze", "all", g.constant([1])), perm=[1, 0, 2], out=y)
    good, bad, steps = np.arange(8) * 9_000, np.full(8, 90_000), 20

    def send(stream: Stream, values: npt.NDArray[np.int64]) -> None:
        stream.send(pb.ClientMessage(steps=pb.Steps(handle=range(len(values)), input=[values.tobytes()])))
        stream.flush()

    with serving(g.save(tmp_path)) as server, Stream(server.address) as ours, Stream(server.address) as theirs:
        for handle in range(8):
            ours.opened(handle)
            theirs.opened(handle)
        expected = []
        for _ in range(steps):
            send(ours, good)
            expected.append({handle: y.tolist() for handle, y in ours.results(dict.fromkeys(range(8), 1), 3).items()})
        ours.reset(*range(8))
        ours.expect("reset_done")
        for step in range(steps):
            with server.paused():
                send(theirs, np.where(np.arange(8) % 4 == step % 4, good, bad))
                send(ours, good)
            found = ours.results(dict.fromkeys(range(8), 1), 3)
            assert {handle: y.tolist() for handle, y in found.items()} == expected[step]
            refused, taken = 0, 0
            while refused + taken < 8:
                message = theirs.read()
                taken += len(message.results.handle)
                refused += len(message.error.handle)
                assert not message.HasField("error") or message.error.reason == pb.REASON_STEP_FAILED
            assert (refused, taken) == (6, 2)
