import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from gatestream.export import exporter
from gatestream.export.artifact import load, save
from gatestream.export.exporter import Form
from gatestream.export.formats import Precision
from gatestream.export.rewriting.narrow import narrow
from gatestream.model.network import Network
from gatestream.protos import spec as spec_module
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.server.backend.artifact import Artifact, arena_graph, rows_graphs
from gatestream.server.errors import ArtifactError
from tests.export.mutations import edit_spec


def test_the_spec_is_read_from_the_file(accumulator_path: Path) -> None:
    assert Artifact.load(accumulator_path).spec.name == "accumulator"


@pytest.mark.parametrize("content", [None, b"", b"no ONNX at all"])
def test_a_file_that_is_not_onnx_is_an_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"model\.onnx"):
        Artifact.load(path)


def drop_contract(spec: pb.ModelSpec) -> None:
    spec.contract = 99


def drop_states(spec: pb.ModelSpec) -> None:
    del spec.states[:]


def rename_output(spec: pb.ModelSpec) -> None:
    spec.outputs[0].name = "z"


def rename_input(spec: pb.ModelSpec) -> None:
    spec.inputs[0].name = "z"


def forget_length(spec: pb.ModelSpec) -> None:
    spec.length_input = ""


def change_dtype(spec: pb.ModelSpec) -> None:
    spec.inputs[0].dtype = pb.DATA_TYPE_INT64
    spec.inputs[0].vocabulary.append("a")


def change_rank(spec: pb.ModelSpec) -> None:
    spec.states[0].shape.append(3)


def tokens_without_vocabulary(spec: pb.ModelSpec) -> None:
    spec.inputs[0].dtype = pb.DATA_TYPE_INT64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_contract, "contract 99, this version of gatestream reads 1"),
        (drop_states, "names no inputs, no outputs or no states"),
        (rename_output, r"names the outputs \['z'\], which its graph does not have"),
        (rename_input, r"the inputs \['x', 'z'\] stand in its spec or in its graph, but not in both"),
        (forget_length, r"the inputs \['length'\] stand in its spec or in its graph"),
        (change_dtype, "tensor 'x' is FLOAT of 3 axes; its spec says DATA_TYPE_INT64 of 3"),
        (change_rank, "tensor 's' is FLOAT of 2 axes; its spec says DATA_TYPE_FLOAT32 of 3"),
        (tokens_without_vocabulary, r"no vocabulary for the token inputs \['x'\]"),
    ],
)
def test_a_spec_that_contradicts_the_graph_is_refused(
    accumulator_path: Path, tmp_path: Path, change: Callable[[pb.ModelSpec], None], message: str
) -> None:
    artifact = Artifact.load(accumulator_path)
    change(artifact.spec)
    onnx.helper.set_model_props(artifact.model, {spec_module.KEY: spec_module.to_json(artifact.spec)})
    path = tmp_path / "changed.onnx"
    onnx.save(artifact.model, path)
    with pytest.raises(ArtifactError, match=message):
        Artifact.load(path)


@pytest.mark.parametrize("props", [{}, {spec_module.KEY: "{"}])
def test_a_file_without_a_spec_is_refused(accumulator_path: Path, tmp_path: Path, props: dict[str, str]) -> None:
    model = onnx.load(accumulator_path)
    onnx.helper.set_model_props(model, props)
    path = tmp_path / "bare.onnx"
    onnx.save(model, path)
    with pytest.raises(ArtifactError, match=r"gatestream\.spec"):
        Artifact.load(path)


def test_the_graphs_made_from_it_are_valid(lstm_path: Path) -> None:
    artifact = Artifact.load(lstm_path)
    for graph in (arena_graph(artifact), *rows_graphs(artifact)):
        onnx.checker.check_model(graph, full_check=True)


def test_weights_that_are_not_those_of_the_fingerprint_are_refused(
    lstm_path: Path, network: Network, tmp_path: Path
) -> None:
    """One bit of any weight, however it is stored."""
    form: Form = "fused" if Artifact.load(lstm_path).spec.form == pb.FORM_FUSED else "gates"
    precisions: tuple[Precision, ...] = ("float32", "float16") if form == "fused" else ("float32", "float16", "int8")
    for weights in precisions:
        graph = load(lstm_path).model
        if weights != "float32":
            narrow(graph, weights)
        path = tmp_path / f"{weights}.onnx"
        save(graph, exporter.spec_of(network, form, weights), path)
        spec = Artifact.load(path).spec
        model = onnx.load(path)
        for item in model.graph.initializer:
            if not item.name.startswith(("cells.", "head.")):
                continue
            data = item.raw_data
            item.raw_data = bytes([data[0] ^ 1]) + data[1:]
            (tmp_path / "changed.onnx").write_bytes(model.SerializeToString())
            said = (
                rf"its weights hash to [0-9a-f]{{16}}, its spec says {spec.weights_fingerprint[:16]}: weights or spec"
            )
            with pytest.raises(ArtifactError, match=said):
                Artifact.load(tmp_path / "changed.onnx")
            item.raw_data = data


def test_a_fingerprint_that_is_not_that_of_the_weights_is_refused(accumulator_path: Path, tmp_path: Path) -> None:
    artifact = Artifact.load(accumulator_path)
    for claimed, shown in (("0" * 64, "0" * 16), ("", "nothing")):
        artifact.spec.weights_fingerprint = claimed
        onnx.helper.set_model_props(artifact.model, {spec_module.KEY: spec_module.to_json(artifact.spec)})
        onnx.save(artifact.model, tmp_path / "changed.onnx")
        with pytest.raises(ArtifactError, match=f"its spec says {shown}: "):
            Artifact.load(tmp_path / "changed.onnx")


def external(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    onnx.external_data_helper.set_external_data(tensor, "/etc/passwd")
    tensor.ClearField("raw_data")


def external_in_an_attribute(model: onnx.ModelProto) -> None:
    constant = onnx.helper.make_node("Constant", [], ["k"], value=onnx.numpy_helper.from_array(np.zeros(3), "k"))
    onnx.external_data_helper.set_external_data(constant.attribute[0].t, "../../secret")
    branch = onnx.helper.make_graph([constant], "branch", [], [])
    model.graph.node.append(onnx.helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch))


def sparse(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add().dims.append(2**60)


def million_nodes(model: onnx.ModelProto) -> None:
    model.graph.node.extend([onnx.helper.make_node("Identity", ["x"], ["z"])] * 100_001)


def huge(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[:] = [2**30, 2**30]


def huge_state(model: onnx.ModelProto) -> None:
    edit_spec(model, lambda spec: spec.states[0].shape.extend([2**30]))


def unknown_form(model: onnx.ModelProto) -> None:
    edit_spec(model, lambda spec: setattr(spec, "form", 77))


def name_for_a_terminal(model: onnx.ModelProto) -> None:
    edit_spec(model, lambda spec: setattr(spec, "name", "\x1b[2J"))


def deep_spec(model: onnx.ModelProto) -> None:
    model.metadata_props[0].value = "[" * 100_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (external, "tensor '[a-z_]+' stands in another file; an artifact holds its weights itself"),
        (external_in_an_attribute, "tensor 'k' stands in another file"),
        (sparse, "has sparse initializers"),
        (million_nodes, "more than 100,000 nodes"),
        (huge, "an initializer is not as large as it says"),
        (huge_state, "has 2,147,483,648 numbers a step; expected 1 to 1,048,576"),
        (unknown_form, "its spec says form 77, which this version does not know"),
        (name_for_a_terminal, r"its spec says name '\\x1b\[2J'; expected 1 to 200 characters"),
        (deep_spec, "is not a ModelSpec"),
    ],
)
def test_a_file_that_would_cost_much_or_reach_elsewhere_is_refused(
    accumulator_path: Path, tmp_path: Path, change: Callable[[onnx.ModelProto], None], message: str
) -> None:
    model = onnx.load(accumulator_path)
    change(model)
    path = tmp_path / "hostile.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError, match=message) as caught:
        Artifact.load(path)
    assert len(str(caught.value)) < 600


def test_a_name_does_not_say_how_to_read_a_file(accumulator_path: Path, tmp_path: Path) -> None:
    for suffix in (".json", ".textproto", ".onnxtxt", ""):
        path = tmp_path / f"model{suffix}"
        path.write_bytes(accumulator_path.read_bytes())
        assert Artifact.load(path).spec.name == "accumulator"


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, message in ((tmp_path, "is a folder"), (tmp_path / "pipe", "is not a regular file")):
        with pytest.raises(ArtifactError, match=message):
            Artifact.load(path)
    with (tmp_path / "long").open("wb") as file:
        file.truncate(2**31)  # a hole: it takes no room
    with pytest.raises(ArtifactError, match="is 2,147,483,648 bytes long, expected at most 2,147,483,647"):
        Artifact.load(tmp_path / "long")
