import pytest

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.spec import CONTRACT, CONTRACT_ANY, KEY, SpecError, from_metadata, to_json


def test_a_spec_comes_back_as_it_was_written() -> None:
    spec = pb.ModelSpec(
        contract=CONTRACT,
        name="m",
        form=pb.FORM_GATES,
        inputs=[pb.TensorSpec(name="x", dtype=pb.DATA_TYPE_INT64, vocabulary=["a", "ü", "\n"])],
        parity=[pb.ParityFigure(reference="torch", tensor="y", max_abs_difference=1e-7, steps=2**40)],
    )
    assert from_metadata({KEY: to_json(spec), "other": "x"}, "file") == spec


def test_a_field_of_a_later_version_is_no_obstacle() -> None:
    assert from_metadata({KEY: f'{{"contract": {CONTRACT}, "name": "m", "later": 1}}'}, "file").name == "m"


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "file: no 'gatestream.spec' in its metadata"),
        ({KEY: '{"contract": "x"}'}, "file: its 'gatestream.spec' is not a ModelSpec"),
        ({KEY: "{}"}, "contract 0, this version of gatestream reads 1 and 2"),
        (
            {KEY: '{"contract": 3, "gatestreamVersion": "9.9"}'},
            r"contract 3, .* the version that wrote it \(9.9\)",
        ),
    ],
)
def test_what_is_not_a_known_spec_is_refused(metadata: dict[str, str], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        from_metadata(metadata, "file")


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (pb.StateSpec(input="h", dtype=pb.DATA_TYPE_FLOAT16, shape=[2], initial_values=b"123"), "from 3 bytes and 0"),
        (
            pb.StateSpec(input="h", dtype=pb.DATA_TYPE_UINT8, shape=[2], initial_values=b"12", initial=1),
            "from 2 bytes and 1; expected 2 bytes, or one number",
        ),
        (
            pb.StateSpec(input="h", dtype=pb.DATA_TYPE_FLOAT16, limit=5),
            "'h' is below 5, but its type is not one of whole numbers",
        ),
        (pb.StateSpec(input="h", dtype=pb.DATA_TYPE_UINT8, required=True), "'h' must be given, but is no constant"),
        (pb.StateSpec(input="h", dtype=pb.DATA_TYPE_UINT8, role=99), "role 99 of state 'h'"),  # type: ignore[arg-type]
        (pb.StateSpec(input="h", dtype=99), "'h' is of type 99; expected one of float32, int64, float16"),  # type: ignore[arg-type]
    ],
)
def test_what_contract_2_does_not_say_of_a_state(state: pb.StateSpec, message: str) -> None:
    spec = pb.ModelSpec(contract=CONTRACT_ANY, name="m", states=[state])
    with pytest.raises(SpecError, match=message):
        from_metadata({KEY: to_json(spec)}, "file")


def test_contract_1_knows_two_types() -> None:
    spec = pb.ModelSpec(contract=CONTRACT, name="m", inputs=[pb.TensorSpec(name="x", dtype=pb.DATA_TYPE_INT8)])
    with pytest.raises(SpecError, match="'x' is of type 7; expected one of float32, int64"):
        from_metadata({KEY: to_json(spec)}, "file")
    spec.contract = CONTRACT_ANY
    assert from_metadata({KEY: to_json(spec)}, "file") == spec


def test_gates_of_contract_2_have_shapes_and_names_of_their_own() -> None:
    gates = [pb.GateSpec(name="reset", symbol="r", output=name, shape=[2]) for name in "ab"]
    for wrong, message in ((gates, "two gates 'reset'"), ([pb.GateSpec(name="reset", shape=[0])], "has 0 numbers")):
        with pytest.raises(SpecError, match=message):
            from_metadata({KEY: to_json(pb.ModelSpec(contract=CONTRACT_ANY, name="m", gates=wrong))}, "file")
