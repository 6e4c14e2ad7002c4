"""A config.pbtxt: what is read of it, what is said to be ignored, and what does not go with the file."""

from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.inference import model_config_pb2 as config_pb
from gatestream.server.backend.artifact import Artifact
from gatestream.server.errors import ArtifactError
from gatestream.server.repository.model_config import ModelConfig
from tests.support.artifacts import accumulator
from tests.support.lstm import Lstm

# As users of other servers write it.
WRITTEN = """
# A voice-activity model.
name: "vad"
platform: 'onnxruntime_onnx'
max_batch_size: 8
input [
  { name: "x" data_type: TYPE_FP32 dims: [ -1, 2 ] },
  { name: "length"; data_type: TYPE_INT32, dims: -1 format: FORMAT_NONE }
]
output < name: "y" data_type: TYPE_FP32 dims: [-1, 2] label_filename: "labels.txt" >
instance_group [ { count: 2 kind: KIND_CPU } ]
parameters { key: "intra_op_thread_count" value: { string_value: "{ name: 1" } }
sequence_batching {
  max_sequence_idle_microseconds: 5000000
  control_input [ { name: "START" control [ { kind: CONTROL_SEQUENCE_START fp32_false_true: [0, 1] } ] } ]
  oldest { max_candidate_sequences: 4 }
  state [
    {
      input_name: "s" output_name: "s_next" data_type: TYPE_FP32 dims: [ 2 ]
      initial_state: { data_type: TYPE_FP32 dims: [ 2 ] zero_data: true name: "s" }
    }
  ]
}
version_policy { latest { num_versions: 2 } }
dynamic_batching { }
"""


STATE = "sequence_batching { state { input_name: 's' output_name: 's_next' %s } }"


def config(folder: Path, text: str, name: str = "vad") -> ModelConfig:
    path = folder / "config.pbtxt"
    path.write_text(text)
    return ModelConfig.load(path, name)


def test_what_others_write_is_read(tmp_path: Path) -> None:
    found = config(tmp_path, WRITTEN)
    assert list(found.ignored) == [
        "input.format",
        "output.label_filename",
        "instance_group",
        "sequence_batching.max_sequence_idle_microseconds",
        "sequence_batching.control_input",
        "sequence_batching.oldest",
        "dynamic_batching",
        "parameters.intra_op_thread_count",
    ]
    assert found.flags() == ["--state=s=s_next"]
    assert found.file == "model.onnx"
    assert found.wanted(["1", "2", "10"]) == (["10", "2", "1"], 2)
    artifact = Artifact.load(accumulator(tmp_path / "a.onnx"))
    assert found.applied(artifact).spec == artifact.spec


@pytest.mark.parametrize(
    ("policy", "wanted"),
    [
        ("", (["10", "2", "1"], 1)),
        ("version_policy: { all { }}", (["10", "2", "1"], 3)),
        ("version_policy { specific { versions: [1, 2, 7] } }", (["2", "1"], 2)),
    ],
)
def test_which_versions_are_served(tmp_path: Path, policy: str, wanted: tuple[list[str], int]) -> None:
    assert config(tmp_path, policy).wanted(["1", "2", "10"]) == wanted


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('name: "other"', "name is 'other'; expected 'vad', or none"),
        ('backend: "tensorrt"', "backend is 'tensorrt'; expected 'onnxruntime', or none"),
        ('platform: "pytorch_libtorch"', "platform is 'pytorch_libtorch'"),
        ('default_model_filename: "../1/model.onnx"', "default_model_filename is '../1/model.onnx'"),
        ('default_model_filename: "a\\000"', "default_model_filename is 'a\\x00'"),
        ("max_batch_size: many", "is no model configuration: 1:17"),
        ("max_batch_size: -1", "max_batch_size is -1; expected 0 or more"),
        (
            'parameters { key: "adopt" value { string_value: "--output /tmp/x" } }',
            "the parameter 'adopt': '--output' is none of the flags that can stand there: --state, --constant, ",
        ),
        ("input { name: ", "is no model configuration: "),
        ('input { name: "x" data_type: TYPE_FP99 }', "is no model configuration: "),
        ("\xff", "is no model configuration: "),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ArtifactError, match=r"config\.pbtxt: ") as caught:
        config(tmp_path, text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('input { name: "z" }', "it names the input 'z'; the model has ['s', 's_next', 'x', 'y']"),
        ('input { name: "x" dims: [-1, 3] }', "input 'x' has the dims [-1, 3]; the file's are [-1, -1, 2]"),
        ('max_batch_size: 1 output { name: "y" dims: [-1, 3] }', "output 'y' has the dims [-1, 3]; the file's are"),
        ('input { name: "x" data_type: TYPE_INT64 }', "input 'x' is TYPE_INT64; the file's is float32"),
        (
            'sequence_batching { state { input_name: "s" output_name: "y" } }',
            "its state goes from 's' to 'y'; the model has s to s_next",
        ),
        (
            'sequence_batching { state { input_name: "s" output_name: "s_next" dims: 3 } }',
            "state 's' has the dims [3]; the model's has 2 numbers",
        ),
        ('input { name: "x" dims: [-1, 0] }', "input 'x' has the dims [-1, 0]; expected 1 or more, or -1"),
        (STATE % "dims: [-1, 3]", "state 's' has the dims [-1, 3]; the model's has 2 numbers"),
        (STATE % "dims: [-1, 0]", "state 's' has the dims [-1, 0]; the model's has 2 numbers"),
        (STATE % "data_type: TYPE_FP16", "state 's' is TYPE_FP16; the file's is float32"),
        (STATE % "} state { input_name: 's' output_name: 's_next'", "state 's' stands there more than once"),
        (
            STATE % "initial_state { zero_data: true dims: 4 }",
            "the initial state of state 's' has the dims [4]; the model's has 2 numbers",
        ),
        (
            STATE % "initial_state { zero_data: true data_type: TYPE_INT8 }",
            "the initial state of state 's' is TYPE_INT8; the file's is float32",
        ),
        (STATE % "initial_state { name: 'zeros' }", "is to have zero_data: true, or a data_file; it has neither"),
        (
            STATE % "initial_state { zero_data: true } initial_state { zero_data: true }",
            "state 's' has 2 initial states; expected one",
        ),
    ],
)
def test_what_the_file_does_not_say_is_refused(tmp_path: Path, text: str, says: str) -> None:
    artifact = Artifact.load(accumulator(tmp_path / "a.onnx"))
    with pytest.raises(ArtifactError) as caught:
        config(tmp_path, text).applied(artifact)
    assert says in str(caught.value)


def test_initial_states_come_from_files(tmp_path: Path) -> None:
    cell = Lstm.random(features=3, hidden=4)
    artifact = Artifact.load(cell.save(tmp_path / "lstm.onnx"))
    h = artifact.layout.states[0]
    row = np.arange(np.prod(h.shape), dtype=h.dtype).reshape(h.shape)
    (tmp_path / "initial_state").mkdir()
    (tmp_path / "initial_state" / "h").write_bytes(row.tobytes())
    given = 'sequence_batching { state { input_name: "h" output_name: "h_next" initial_state { data_file: "%s" } } }'
    found = config(tmp_path, given % "h").applied(artifact)
    np.testing.assert_array_equal(found.layout.states[0].first(), row)
    np.testing.assert_array_equal(found.layout.states[1].first(), np.zeros(h.shape))
    (tmp_path / "initial_state" / "short").write_bytes(row.tobytes()[:-1])
    (tmp_path.parent / "outside").write_bytes(row.tobytes())
    (tmp_path / "initial_state" / "link").symlink_to(tmp_path.parent / "outside")
    for name, says in (
        ("short", "short: has 15 bytes; the state 'h' has "),
        ("link", "link: is a link that leaves "),
        ("none", "none: cannot be read: No such file"),
        ("../h", "data_file is '../h'; expected the name of a file"),
    ):
        with pytest.raises(ArtifactError) as caught:
            config(tmp_path, given % name).applied(artifact)
        assert says in str(caught.value)


NAMES = st.text("abcx_ \"'{}<>[]#\\\n:", max_size=6)
DIMS = st.lists(st.integers(-1, 9), max_size=3)
TENSORS = st.builds(
    lambda name, kind, dims: config_pb.Tensor(name=name, data_type=kind, dims=dims), NAMES, st.integers(0, 14), DIMS
)
STATES = st.builds(
    lambda a, b, dims, zero: config_pb.State(
        input_name=a, output_name=b, dims=dims, initial_state=[config_pb.InitialState(dims=dims, zero_data=zero)]
    ),
    *(NAMES, NAMES, DIMS, st.booleans()),
)
CONFIGS = st.builds(
    lambda size, inputs, outputs, states: config_pb.ModelConfig(
        max_batch_size=size,
        input=inputs,
        output=outputs,
        sequence_batching=config_pb.SequenceBatching(state=states),
    ),
    *(st.integers(0, 64), st.lists(TENSORS, max_size=2), st.lists(TENSORS, max_size=2), st.lists(STATES, max_size=2)),
)
# Fields that are not known, one in each line, with all that can stand in one.
STRANGE = st.sampled_from(
    [
        'later: "text # with { all } [ of ] it"',
        "later: -1.5e3",
        "later: [ KIND_A, KIND_B ]",
        "later { name: 'x' state [ { input_name: \"no\" } ] max_batch_size: 3 }",
        "later < dims: [1, 2] >",
        "later: { }",
        "later [ { a: 1 }, { b: 2 } ]",
    ]
)


@given(CONFIGS, STRANGE, st.booleans())
def test_whatever_is_written_is_read_and_what_is_strange_named(
    tmp_path_factory: pytest.TempPathFactory, message: config_pb.ModelConfig, strange: str, one_line: bool
) -> None:
    folder = tmp_path_factory.mktemp("config")
    known = text_format.MessageToString(message, as_one_line=one_line)
    found = config(folder, f"{strange}\n{known}\n{strange.replace('later', 'latest', 1)}")
    assert found.message == message
    assert list(found.ignored) == ["later", "latest"]


def test_a_source_is_compared_by_its_own_names(tmp_path: Path) -> None:
    artifact = Artifact.load(accumulator(tmp_path / "a.onnx"))
    artifact.spec.source.tensors.extend(
        [
            pb.SourceTensor(name="audio", role="input", shape=[1, 512], becomes="x"),
            pb.SourceTensor(name="sr", role="ignored"),
            pb.SourceTensor(name="state", role="state", shape=[1, -1, 2], becomes="s"),
            pb.SourceTensor(name="stateN", role="state", shape=[1, -1, 2], becomes="s_next"),
        ]
    )
    config(
        tmp_path,
        'input [{ name: "audio" data_type: TYPE_FP32 dims: [1, -1] }, { name: "sr" dims: [] }] sequence_batching { '
        'state { input_name: "state" output_name: "stateN" dims: [1, 1, 2] } }',
    ).applied(artifact)
    with pytest.raises(ArtifactError, match=r"input 'audio' has the dims \[1, 256\]; the file's are \[1, 512\]"):
        config(tmp_path, 'input { name: "audio" dims: [1, 256] }').applied(artifact)
