"""A folder with files of others, which are adopted when they are loaded."""

import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from gatestream.client import connect
from gatestream.protos.inference import open_inference_grpc_pb2 as oip
from gatestream.protos.inference import open_inference_grpc_pb2_grpc as oip_grpc
from tests.support.process import serving
from tests.support.repository import control, listed, load, put, states
from tests.support.strangers.generators import ADOPTED
from tests.support.strangers.layers import lstm_exposed
from tests.support.strangers.oracle import Oracle
from tests.support.wire import PATIENCE, Stream, channel


def test_files_of_others_are_adopted(models: Path, tmp_path: Path) -> None:
    """As they came, with the config.pbtxt that another server had for one: each step as the file itself gives it."""
    stranger = lstm_exposed(tmp_path)
    folder = models / "theirs"
    (folder / "4").mkdir(parents=True)
    (folder / "4" / "model.onnx").write_bytes(stranger.path.read_bytes())
    pairs = "".join(
        f'state {{ input_name: "{state.input}" output_name: "{state.output}" dims: [ 1, -1, 5 ] }} '
        for state in stranger.states
    )
    (folder / "config.pbtxt").write_text(
        f'name: "theirs"\nplatform: "onnxruntime_onnx"\nsequence_batching {{ {pairs} }}\n'
        f'input [ {{ name: "{stranger.inputs[0].name}" data_type: TYPE_FP32 dims: [ -1, -1, 3 ] }} ]\n'
    )
    swapped = models / "swapped"
    (swapped / "1").mkdir(parents=True)
    (swapped / "1" / "model.onnx").write_bytes(stranger.path.read_bytes())
    (swapped / "config.pbtxt").write_text('sequence_batching { state { input_name: "onnx::1" output_name: "none" } }')
    cache = tmp_path / "cache"
    oracle = Oracle(stranger)
    for again in (False, True):
        began = time.monotonic()
        with serving(models=models, model_control=True, adopt_cache=cache) as server, control(server) as stub:
            assert states(stub) == {("swapped", "1"): "FAILED", ("theirs", "4"): "READY"}
            assert "swapped/1/model.onnx" in listed(stub)["swapped", "1"].error
            x = oracle.sample(12, seed=3)
            (expected,) = oracle.run(x).values()
            with Stream(server.address) as stream:
                stream.opened(0, model="theirs")
                (rows,) = x.values()
                got = []
                for begin, end in ((0, 1), (1, 2), (2, 7), (7, 12)):
                    stream.steps({0: rows[begin:end]})
                    got.append(stream.results({0: end - begin}, 5)[0])
                np.testing.assert_allclose(np.concatenate(got), expected, rtol=0, atol=1e-6)
            adopted = [line for line in server.log.read_text().splitlines() if '"adopting"' in line]
            # What was made is kept; what failed is tried again.
            assert ["/theirs/4/" in line for line in adopted].count(True) == (0 if again else 1), (
                time.monotonic() - began
            )
    made = cache.glob("*.onnx")
    assert len(list(made)) == 1


def test_what_a_file_cannot_say_stands_in_its_configuration(models: Path, tmp_path: Path) -> None:
    stranger = ADOPTED["sample_rate"](tmp_path)
    oracle = Oracle(stranger)
    (models / "vad" / "1").mkdir(parents=True)
    (models / "vad" / "1" / "model.onnx").write_bytes(stranger.path.read_bytes())
    put(models, "m", 1)
    with serving(models=models, model_control=True) as server, control(server) as stub:
        error = listed(stub)["vad", "1"].error
        assert "--constant sr=VALUE" in error
        assert error.endswith(
            '; flags stand in vad/config.pbtxt: parameters { key: "adopt" value { string_value: "FLAGS" } }'
        )
        (models / "vad" / "config.pbtxt").write_text(
            'max_batch_size: 3 parameters { key: "adopt" value { string_value: "--constant sr=16000" } }'
        )
        load(stub, "vad")
        xs = oracle.sample(4, seed=1)
        [x], [y] = xs.values(), oracle.run(xs).values()
        with connect(server.address) as gs, gs.group("vad", 8) as group:
            found = np.stack([group.step(np.repeat(row[None], 8, axis=0)) for row in x])
            assert found == pytest.approx(np.repeat(y[:, None], 8, axis=1), abs=1e-5)
        with channel(server.address) as opened:
            asked = oip.ModelStatisticsRequest(name="vad")
            [stats] = oip_grpc.GRPCInferenceServiceStub(opened).ModelStatistics(asked, timeout=PATIENCE).model_stats
        assert {each.batch_size for each in stats.batch_stats} == {3, 2}, "eight, never more than three at once"


def many_means(count: int) -> onnx.ModelProto:
    """One step of so many running means of one input, each at a pace of its own: some seconds to adopt."""
    nodes, states, after = [], [], []
    for k in range(count):
        half = helper.make_node("Mul", [f"m{k}", f"pace{k}"], [f"half{k}"])
        nodes += [half, helper.make_node("Add", [f"half{k}", "x"], [f"n{k}"])]
        states.append(helper.make_tensor_value_info(f"m{k}", onnx.TensorProto.FLOAT, ["rows", 4]))
        after.append(helper.make_tensor_value_info(f"n{k}", onnx.TensorProto.FLOAT, ["rows", 4]))
    nodes.append(helper.make_node("Sum", [f"n{k}" for k in range(count)], ["y"]))
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["rows", 4]) for name in "xy")
    paces = [numpy_helper.from_array(np.array(0.5 + 0.4 * k / count, np.float32), f"pace{k}") for k in range(count)]
    graph = helper.make_graph(nodes, "means", [x, *states], [y, *after], paces)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_adopting_is_bounded(models: Path, tmp_path: Path) -> None:
    put(models, "m", 1)
    stranger = lstm_exposed(tmp_path)
    for name in ("theirs", "garbage"):
        (models / name / "1").mkdir(parents=True)
    (models / "garbage" / "1" / "model.onnx").write_bytes(b"\x08\x08" + b"no model" * 9)
    (models / "theirs" / "1" / "model.onnx").write_bytes(stranger.path.read_bytes())
    with serving(models=models, adopt_mib=128) as server, control(server) as stub:
        assert states(stub) == {("garbage", "1"): "FAILED", ("m", "1"): "READY", ("theirs", "1"): "FAILED"}
        for name in ("theirs", "garbage"):
            error = listed(stub)[name, "1"].error
            assert f"{name}/1/model.onnx: gatestream adopt: " in error
            assert "--adopt-mib" in error
    (models / "theirs" / "1" / "model.onnx").write_bytes(many_means(300).SerializeToString())
    with serving(models=models, adopt_seconds=1) as server, control(server) as stub:
        assert "was not adopted within 1 s (--adopt-seconds)" in listed(stub)["theirs", "1"].error
