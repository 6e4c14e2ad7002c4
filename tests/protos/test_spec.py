import pytest

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.spec import CONTRACT, KEY, SpecError, from_metadata, to_json


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
        ({KEY: "{}"}, "contract 0, this version of gatestream reads 1"),
        (
            {KEY: '{"contract": 2, "gatestreamVersion": "9.9"}'},
            r"contract 2, .* the version that wrote it \(9.9\)",
        ),
    ],
)
def test_what_is_not_a_known_spec_is_refused(metadata: dict[str, str], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        from_metadata(metadata, "file")
