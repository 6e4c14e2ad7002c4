"""The layout of a model, against a spec written out here."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.layout import Column, Gate, Input, LayoutError, ModelLayout, State

FLOAT, WHOLE = np.dtype("<f4"), np.dtype("<i8")
SPEC = pb.ModelSpec(
    name="m",
    weights_fingerprint="0123",
    layers=2,
    hidden=5,
    length_input="length",
    inputs=[
        pb.TensorSpec(name="x", dtype=pb.DATA_TYPE_FLOAT32, shape=[2], columns=["wind", "rain"]),
        pb.TensorSpec(name="token", dtype=pb.DATA_TYPE_INT64, vocabulary=["a", "b", "c"]),
    ],
    # Logits have a vocabulary too, and any finite number may stand in them.
    outputs=[pb.TensorSpec(name="y", dtype=pb.DATA_TYPE_FLOAT32, shape=[3], vocabulary=["a", "b", "c"])],
    states=[pb.StateSpec(input="h", output="h_next", dtype=pb.DATA_TYPE_FLOAT32, shape=[2, 5], initial=0.5)],
    gates=[pb.GateSpec(name="forget", symbol="f", output="f")],
)
LAYOUT = ModelLayout.of(SPEC)
X, TOKEN = LAYOUT.inputs


def test_it_is_what_the_spec_says() -> None:
    assert (LAYOUT.name, LAYOUT.fingerprint, LAYOUT.length) == ("m", "0123", "length")
    assert (Input("x", FLOAT, (2,), (), ("wind", "rain")), Input("token", WHOLE, (), ("a", "b", "c"), limit=3)) == (
        X,
        TOKEN,
    )
    assert LAYOUT.outputs == (Column("y", FLOAT, (3,)),)
    assert LAYOUT.states == (State("h", FLOAT, (2, 5), "h_next", 0.5),)
    assert LAYOUT.gates == (Gate("f", FLOAT, (2, 5), "forget"),)
    assert LAYOUT.constants == ()
    assert [(each.size, each.row_bytes) for each in (*LAYOUT.inputs, *LAYOUT.states)] == [(2, 8), (1, 8), (10, 40)]
    assert (LAYOUT.input_bytes, LAYOUT.output_bytes, LAYOUT.gate_bytes, LAYOUT.state_bytes) == (16, 12, 40, 40)


def test_constants_are_those_states_that_a_session_is_given() -> None:
    spec = pb.ModelSpec()
    spec.CopyFrom(SPEC)
    start = np.arange(4, dtype="<f2")
    spec.states.add(
        input="voice",
        output="voice_next",
        dtype=pb.DATA_TYPE_FLOAT16,
        shape=[4],
        role=pb.STATE_ROLE_CONSTANT,
        initial_values=start.tobytes(),
    )
    (voice,) = ModelLayout.of(spec).constants
    assert (voice.name, voice.after, voice.required) == ("voice", "voice_next", False)
    np.testing.assert_array_equal(voice.first(), start)
    spec.states.add(input="accent", dtype=pb.DATA_TYPE_INT8, role=pb.STATE_ROLE_CONSTANT, limit=5, required=True)
    _, accent = ModelLayout.of(spec).constants
    assert accent.good(np.array([-1, 0, 4, 5], "<i1")).tolist() == [False, True, True, False]
    np.testing.assert_array_equal(LAYOUT.states[0].first(), np.full((2, 5), 0.5, np.float32))


def test_a_gate_of_contract_2_has_a_shape_of_its_own() -> None:
    gate = pb.GateSpec(name="lower.reset", symbol="r", output="lower.r", shape=[7], cell="lower")
    assert ModelLayout.of(pb.ModelSpec(gates=[gate])).gates == (Gate("lower.r", FLOAT, (7,), "lower.reset"),)


@pytest.mark.parametrize(
    ("dtype", "limit", "numbers", "good"),
    [
        (pb.DATA_TYPE_INT16, 0, [-5, 2**15 - 1], [True, True]),
        (pb.DATA_TYPE_INT16, 9, [-5, 8, 9], [False, True, False]),
        (pb.DATA_TYPE_INT8, 9, [-128, 8], [False, True]),
        (pb.DATA_TYPE_UINT8, 0, [255], [True]),
        (pb.DATA_TYPE_INT64, 0, [-1], [True]),
        (pb.DATA_TYPE_FLOAT16, 0, [np.inf, 1], [False, True]),
        (pb.DATA_TYPE_FLOAT64, 0, [np.nan, 1e300], [False, True]),
    ],
)
def test_which_numbers_are_taken_is_said_by_the_type(
    dtype: pb.DataType, limit: int, numbers: list[float], good: list[bool]
) -> None:
    (column,) = ModelLayout.of(pb.ModelSpec(inputs=[pb.TensorSpec(name="x", dtype=dtype, limit=limit)])).inputs
    assert column.good(np.array(numbers, column.dtype)).tolist() == good


def test_a_truth_is_a_byte_of_0_or_1() -> None:
    (column,) = ModelLayout.of(pb.ModelSpec(inputs=[pb.TensorSpec(name="x", dtype=pb.DATA_TYPE_BOOL)])).inputs
    assert column.good(np.frombuffer(b"\0\1\2\xff", np.bool_)).tolist() == [True, True, False, False]


def test_rows_are_read_from_bytes() -> None:
    rows = X.rows(np.arange(6, dtype="<f4").tobytes())
    np.testing.assert_array_equal(rows, [[0, 1], [2, 3], [4, 5]])
    assert TOKEN.rows(np.arange(3, dtype="<i8").tobytes()).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="cannot reshape"):
        X.rows(bytes(12))


@pytest.mark.parametrize("token", [-(2**63), -1, 3, 2**62])
def test_tokens_outside_the_vocabulary_are_not_good(token: int) -> None:
    column = np.array([0, token, 2])
    assert TOKEN.good(column).tolist() == [True, False, True]
    assert not TOKEN.all_good(column)
    assert TOKEN.all_good(np.array([0, 1, 2]))


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_not_good(number: float) -> None:
    assert not X.all_good(np.array([[0, number]], np.float32))
    # The largest numbers are numbers, though their sum is not.
    assert X.all_good(np.full((4, 2), np.finfo(np.float32).max))


NUMBERS = {
    **{
        kind: np.array(
            [np.nan, -np.nan, np.inf, -np.inf, 0, -0.0, 1, np.finfo(kind).max, np.finfo(kind).smallest_subnormal], kind
        )
        for kind in ("<f2", "<f4", "<f8")
    },
    "<i8": np.array([-(2**63), -1, 0, 1, 2, 3, 2**62]),
    "<i4": np.array([-(2**31), -1, 0, 2, 3, 2**30], "<i4"),
    "|b1": np.array([0, 1, 2, 255], np.uint8),
}


@given(st.data())
def test_a_row_is_taken_whose_numbers_are_all_good(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(list(NUMBERS)))
    limit = data.draw(st.sampled_from([0, 3])) if kind in ("<i8", "<i4") else 0
    size = data.draw(st.integers(1, 5))
    item = Input("x", np.dtype(kind), (size,), limit=limit)
    numbers = data.draw(st.lists(st.sampled_from(range(len(NUMBERS[kind]))), min_size=size, max_size=size))
    row = NUMBERS[kind][numbers].tobytes()
    assert item.takes(row) == bool(item.good(item.rows(row)).all())


def test_a_data_type_of_a_later_version_is_refused() -> None:
    spec = pb.ModelSpec()
    spec.CopyFrom(SPEC)
    spec.outputs[0].dtype = 99  # type: ignore[assignment]
    with pytest.raises(LayoutError, match="'y' is of data type 99"):
        ModelLayout.of(spec)
