from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from gatestream.protos import spec as spec_module
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.server.artifact import Artifact, arena_graph, rows_graphs
from gatestream.server.errors import ArtifactError


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
