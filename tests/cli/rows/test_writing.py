import csv
import json

import numpy as np
import pytest

from gatestream.cli.rows import Form, RowsError
from gatestream.cli.rows.writing import Writer
from gatestream.client import Answer
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

F32 = pb.DATA_TYPE_FLOAT32
NAMED = pb.ModelSpec(
    name="m",
    layers=1,
    hidden=2,
    outputs=[
        pb.TensorSpec(name="y", dtype=F32, shape=[2], columns=["low", "high"]),
        pb.TensorSpec(name="extra", dtype=F32, shape=[1]),
        pb.TensorSpec(name="plain", dtype=F32, shape=[2]),
    ],
    gates=[pb.GateSpec(name="input", symbol="i", output="i"), pb.GateSpec(name="forget", symbol="f", output="f")],
)
TOKENS = pb.ModelSpec(name="t", outputs=[pb.TensorSpec(name="y", dtype=F32, shape=[3], vocabulary=["a", ",", "\n"])])
ANSWER = Answer(
    7,
    {
        "y": np.array([0.1, 2], np.float32),
        "extra": np.array([1e-9], np.float32),
        "plain": np.array([1, 16777216], np.float32),
    },
    {"input": np.array([[0.5, 0.25]], np.float32), "forget": np.array([[1, 0]], np.float32)},
)


def test_csv() -> None:
    writer = Writer(NAMED, "csv", gates=False)
    assert writer.header() == "low,high,extra,plain_0,plain_1\n"
    assert writer.answer(ANSWER) == "0.1,2.0,1e-09,1.0,1.6777216e+07\n"
    assert writer.breaks(3) == writer.end() == ""


def test_csv_with_gates() -> None:
    writer = Writer(NAMED, "csv", gates=True)
    assert writer.header().endswith(",input_0_0,input_0_1,forget_0_0,forget_0_1\n")
    assert writer.answer(ANSWER).endswith(",0.5,0.25,1.0,0.0\n")


def test_csv_of_awkward_tokens_can_be_read_again() -> None:
    header = Writer(TOKENS, "csv", gates=False).header()
    assert next(csv.reader(header.splitlines(keepends=True))) == ["a", ",", "\n"]


def test_jsonl() -> None:
    writer = Writer(NAMED, "jsonl", gates=True)
    assert writer.header() == ""
    line = writer.answer(ANSWER)
    assert line.endswith("\n")
    assert json.loads(line) == {
        "position": 7,
        "y": [0.1, 2.0],
        "extra": [1e-9],
        "plain": [1.0, 16777216.0],
        "gates": {"input": [[0.5, 0.25]], "forget": [[1.0, 0.0]]},
    }


def test_numbers_of_every_type() -> None:
    spec = pb.ModelSpec(
        name="m",
        contract=2,
        outputs=[
            pb.TensorSpec(name="count", dtype=pb.DATA_TYPE_INT64),
            pb.TensorSpec(name="speech", dtype=pb.DATA_TYPE_BOOL, shape=[2]),
            pb.TensorSpec(name="half", dtype=pb.DATA_TYPE_FLOAT16, shape=[1]),
            pb.TensorSpec(name="whole", dtype=pb.DATA_TYPE_FLOAT64),
        ],
        gates=[pb.GateSpec(name="gru.reset", symbol="r", output="r", shape=[2])],
    )
    outputs = {
        "count": np.array(2**53 + 1),
        "speech": np.array([True, False]),
        "half": np.array([0.1], np.float16),
        "whole": np.array(0.1),
    }
    answer = Answer(0, outputs, {"gru.reset": np.array([0.5, 1], np.float32)})
    writer = Writer(spec, "csv", gates=True)
    assert writer.header() == "count,speech_0,speech_1,half,whole,gru.reset_0,gru.reset_1\n"
    assert writer.answer(answer) == f"{2**53 + 1},1,0,0.1,0.1,0.5,1.0\n"
    assert json.loads(Writer(spec, "jsonl", gates=True).answer(answer)) == {
        "position": 0,
        "count": 2**53 + 1,
        "speech": [True, False],
        "half": [0.1],
        "whole": 0.1,
        "gates": {"gru.reset": [0.5, 1.0]},
    }


def test_every_digit_survives() -> None:
    values = np.random.default_rng(0).normal(size=(100, 2)).astype(np.float32)
    forms: tuple[Form, ...] = ("csv", "jsonl")
    for form in forms:
        writer = Writer(pb.ModelSpec(outputs=[pb.TensorSpec(name="y", dtype=F32, shape=[2])]), form, gates=False)
        for y in values:
            line = writer.answer(Answer(0, {"y": y}, {}))
            read = line.split(",") if form == "csv" else json.loads(line)["y"]
            np.testing.assert_array_equal(np.array(read, np.float32), y)


def test_text() -> None:
    writer = Writer(TOKENS, "text", gates=False)

    def token(place: int) -> str:
        return writer.answer(Answer(0, {"y": np.eye(3, dtype=np.float32)[place]}, {}))

    assert (writer.header(), writer.end()) == ("", "")
    assert token(0) == "a"
    assert writer.end() == "\n"
    assert writer.breaks(2) == "\n\n"
    assert writer.end() == ""
    assert token(1) == ","
    assert token(2) == "\n"
    assert writer.end() == ""


@pytest.mark.parametrize(
    ("spec", "form", "message"), [(NAMED, "text", "not with tokens"), (TOKENS, "text", "gates are numbers")]
)
def test_a_form_that_does_not_fit(spec: pb.ModelSpec, form: Form, message: str) -> None:
    with pytest.raises(RowsError, match=message):
        Writer(spec, form, gates=True)
