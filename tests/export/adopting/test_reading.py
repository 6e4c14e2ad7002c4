import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from gatestream.export.adopting import external, reading
from gatestream.export.adopting.reading import fold, read
from gatestream.export.errors import SourceError
from tests.export.adopting import graphs
from tests.export.adopting.stepping import run

X = np.random.default_rng(3).standard_normal((5, 2, 3)).astype(np.float32)


def with_external_data(folder: Path, location: str = "weights.bin") -> onnx.ModelProto:
    """A file whose W stands in another, and that other file."""
    proto = graphs.plain("GRU")
    W = next(item for item in proto.graph.initializer if item.name == "W")
    (folder / "weights.bin").write_bytes(b"padding!" + W.raw_data)
    size = len(W.raw_data)
    W.ClearField("raw_data")
    W.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "8"), ("length", str(size))):
        W.external_data.add(key=key, value=value)
    return proto


def refused(path: Path) -> str:
    with pytest.raises(SourceError) as caught:
        read(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


# ---- Weights beside the file ----------------------------------------------------------------------


def test_weights_beside_the_file_are_taken_in(tmp_path: Path) -> None:
    path = graphs.saved(with_external_data(tmp_path), tmp_path)
    model = read(path)
    (tmp_path / "weights.bin").unlink()
    np.testing.assert_array_equal(run(model, {"x": X})["y"], run(graphs.plain("GRU"), {"x": X})["y"])


def test_weights_may_stand_in_a_folder_beside_the_file(tmp_path: Path) -> None:
    proto = with_external_data(tmp_path, "data/weights.bin")
    (tmp_path / "data").mkdir()
    (tmp_path / "weights.bin").rename(tmp_path / "data" / "weights.bin")
    assert read(graphs.saved(proto, tmp_path)).graph.initializers["W"].const_value is not None


def test_a_file_is_read_wherever_it_is_read_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs.saved(with_external_data(tmp_path), tmp_path)
    monkeypatch.chdir(tmp_path)
    read("theirs.onnx")


@pytest.mark.parametrize(
    "location", ["../weights.bin", "below/../../weights.bin", "..", ".", "", "/etc/passwd", "a\\b"]
)
def test_a_reference_never_leaves_the_folder(location: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "below").mkdir(parents=True)
    proto = with_external_data(tmp_path, location)
    message = refused(graphs.saved(proto, folder))
    assert "'W'" in message


def test_a_symbolic_link_leads_nowhere(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    proto = with_external_data(tmp_path, "link.bin")
    (folder / "link.bin").symlink_to(tmp_path / "weights.bin")
    assert "symbolic link" in refused(graphs.saved(proto, folder))


def test_nor_does_a_linked_folder(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    proto = with_external_data(tmp_path, "link/weights.bin")
    (folder / "link").symlink_to(tmp_path)
    assert "symbolic link" in refused(graphs.saved(proto, folder))


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    proto = with_external_data(tmp_path, "pipe")
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refused(graphs.saved(proto, tmp_path))


@pytest.mark.parametrize(
    ("key", "value"), [("offset", "100000"), ("offset", "-8"), ("length", "-1"), ("length", "100000"), ("offset", "x")]
)
def test_a_reference_stays_within_its_file(key: str, value: str, tmp_path: Path) -> None:
    proto = with_external_data(tmp_path)
    [item] = [item for item in proto.graph.initializer[0].external_data if item.key == key]
    item.value = value
    refused(graphs.saved(proto, tmp_path))


def test_one_file_named_many_times_is_not_more_than_a_file_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proto = with_external_data(tmp_path)
    for k in range(20):
        again = proto.graph.initializer.add()
        again.CopyFrom(proto.graph.initializer[0])
        again.name = f"again_{k}"
    monkeypatch.setattr(external, "LARGEST_FILE", 2000)
    assert "2,000 bytes" in refused(graphs.saved(proto, tmp_path))


def test_a_tensor_is_as_large_as_it_says(tmp_path: Path) -> None:
    proto = with_external_data(tmp_path)
    proto.graph.initializer[0].dims[1] = 10**6
    assert "'W'" in refused(graphs.saved(proto, tmp_path))


# ---- What is no model -----------------------------------------------------------------------------


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "none.onnx")


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_bytes_that_are_no_model(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.onnx"
    path.write_bytes(data)
    refused(path)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_model_with_bytes_changed_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    whole = bytearray(graphs.plain("RNN", opset=11).SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "changed.onnx"
    path.write_bytes(whole)
    try:
        read(path)
    except SourceError as error:
        assert "\n" not in str(error)  # noqa: PT017 (it may also be read)


def test_an_operator_that_onnxruntime_does_not_have(tmp_path: Path) -> None:
    proto = graphs.plain()
    proto.graph.node.append(helper.make_node("Whiten", ["y"], ["z"], name="whiten_3", domain="acme.audio"))
    proto.opset_import.add(domain="acme.audio", version=1)
    message = refused(graphs.saved(proto, tmp_path))
    assert "whiten_3" in message
    assert "acme.audio" in message


@pytest.mark.parametrize("opset", [6, 1])
def test_an_opset_that_is_too_old(opset: int, tmp_path: Path) -> None:
    proto = graphs.plain()
    proto.opset_import[0].version = opset
    assert f"opset {opset}" in refused(graphs.saved(proto, tmp_path))


def test_more_nodes_than_an_artifact_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatestream.protos.bounds.MOST_NODES", 0)
    refused(graphs.saved(graphs.plain(), tmp_path))


# ---- Functions ------------------------------------------------------------------------------------


def function(name: str, calls: list[str]) -> onnx.FunctionProto:
    """x through each of `calls`."""
    names = ["x", *(f"t{k}" for k in range(len(calls) - 1)), "y"]
    nodes = [
        helper.make_node(op, [a], [b], domain="" if op in ("Tanh", "Neg") else "local")
        for op, a, b in zip(calls, names, names[1:], strict=False)
    ]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    return helper.make_function("local", name, ["x"], ["y"], nodes, opsets)


def with_functions(*functions: onnx.FunctionProto, called: str) -> onnx.ModelProto:
    proto = graphs.plain()
    proto.graph.node.append(helper.make_node(called, ["y"], ["z"], domain="local"))
    proto.graph.output.append(graphs.tensor("z", ["time", 1, "batch", 4]))
    proto.functions.extend(functions)
    proto.opset_import.add(domain="local", version=1)
    return proto


def test_functions_are_inlined(tmp_path: Path) -> None:
    proto = with_functions(function("two", ["Tanh", "inner"]), function("inner", ["Neg", "Tanh"]), called="two")
    model = read(graphs.saved(proto, tmp_path))
    assert [node.op_type for node in model.graph] == ["LSTM", "Tanh", "Neg", "Tanh"]
    assert not model.functions
    np.testing.assert_array_equal(run(model, {"x": X})["z"], run(proto, {"x": X})["z"])


def test_functions_that_would_make_too_many_nodes(tmp_path: Path) -> None:
    levels = [function(f"f{k}", [f"f{k + 1}"] * 10) for k in range(6)]
    message = refused(graphs.saved(with_functions(*levels, function("f6", ["Tanh"]), called="f0"), tmp_path))
    assert "1,000,001 nodes" in message


def test_functions_that_call_each_other_in_a_circle(tmp_path: Path) -> None:
    proto = with_functions(function("a", ["b"]), function("b", ["a"]), called="a")
    assert "calls itself" in refused(graphs.saved(proto, tmp_path))


# ---- Opsets ---------------------------------------------------------------------------------------


def squeezed(opset: int) -> onnx.ModelProto:
    """Squeeze, whose axes were an attribute before opset 13, in the graph and in a branch of it; up to opset 17."""

    def squeeze(name: str, source: str, axis: int) -> onnx.NodeProto:
        if opset < 13:
            return helper.make_node("Squeeze", [source], [name], axes=[axis])
        return helper.make_node("Squeeze", [source, f"axis_{axis}"], [name])

    greatest = helper.make_node("ReduceMax", ["s"], ["else"], keepdims=0, axes=[1])
    branches: dict[str, Any] = {
        f"{which}_branch": helper.make_graph([node], which, [], [graphs.tensor(which, ["time", 4])])
        for which, node in (("then", squeeze("then", "s", 1)), ("else", greatest))
    }
    proto = graphs.plain()
    W, R, B = (numpy_helper.to_array(item) for item in proto.graph.initializer)
    constants = {"W": W, "R": R, "B": B}
    constants |= {"axis_1": np.array([1])} if opset >= 13 else {}
    return graphs.model(
        [proto.graph.node[0], squeeze("s", "y", 1), helper.make_node("If", ["fast"], ["z"], **branches)],
        [graphs.tensor("x", ["time", 1, 3]), graphs.tensor("fast", [], TensorProto.BOOL)],
        [graphs.tensor("z", ["time", 4])],
        constants,
        opset,
        ir_version=4,
    )


@pytest.mark.parametrize("opset", [7, 9, 11, 12, 13, 16])
def test_an_older_opset_is_converted_in_branches_too(opset: int, tmp_path: Path) -> None:
    proto = squeezed(opset)
    model = read(graphs.saved(proto, tmp_path))
    assert model.opset_imports[""] == reading.OPSET
    for fast in (True, False):
        feed = {"x": X[:, :1], "fast": np.array(fast)}
        np.testing.assert_array_equal(run(model, feed)["z"], run(proto, feed)["z"])


@pytest.mark.parametrize("opset", [21, 22, 23])
def test_a_later_opset_is_converted(opset: int, tmp_path: Path) -> None:
    proto = graphs.plain("GRU", linear_before_reset=1)
    proto.opset_import[0].version = opset
    proto.ir_version = 10
    model = read(graphs.saved(proto, tmp_path))
    assert model.opset_imports[""] == reading.OPSET
    np.testing.assert_array_equal(run(model, {"x": X})["y"], run(proto, {"x": X})["y"])


def test_what_a_later_opset_alone_has_is_named(tmp_path: Path) -> None:
    proto = graphs.plain()
    proto.opset_import[0].version = 24
    proto.graph.node.append(helper.make_node("Swish", ["y"], ["z"]))
    proto.graph.output.append(graphs.tensor("z", ["time", 1, "batch", 4]))
    message = refused(graphs.saved(proto, tmp_path))
    assert "Swish" in message
    assert "opset 24" in message


# ---- Constants ------------------------------------------------------------------------------------


def test_an_initializer_that_is_an_input_too_is_a_constant(tmp_path: Path) -> None:
    proto = graphs.plain()
    proto.graph.input.extend(
        helper.make_tensor_value_info(item.name, item.data_type, item.dims) for item in proto.graph.initializer
    )
    assert [value.name for value in read(graphs.saved(proto, tmp_path)).graph.inputs] == ["x"]


def test_a_branch_on_a_constant_is_gone(tmp_path: Path) -> None:
    proto = squeezed(13)
    model = read(graphs.saved(proto, tmp_path))
    fold(model, {"fast": np.array(1)})
    assert [value.name for value in model.graph.inputs] == ["x"]
    assert "If" not in [node.op_type for node in model.graph.all_nodes()]
    expected = run(proto, {"x": X[:, :1], "fast": np.array(True)})["z"]
    np.testing.assert_array_equal(run(model, {"x": X[:, :1]})["z"], expected)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("slow", np.array(True), "'slow'"),
        ("fast", np.array([True, False]), "[2]"),
        ("fast", np.array(0.5), "cannot hold"),
    ],
)
def test_a_constant_that_does_not_fit(name: str, value: np.ndarray, said: str, tmp_path: Path) -> None:
    model = read(graphs.saved(squeezed(13), tmp_path))
    with pytest.raises(SourceError) as caught:
        fold(model, {name: value})
    assert said in str(caught.value)


def test_outputs_of_one_name_are_refused_by_that_name(tmp_path: Path) -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    ends = [graphs.tensor("y", ["batch", 3]) for _ in range(2)]
    path = graphs.saved(graphs.model([node], [graphs.tensor("x", ["batch", 3])], ends), tmp_path)
    with pytest.raises(SourceError, match="2 outputs are called 'y'; each needs a name of its own"):
        reading.read(path)
