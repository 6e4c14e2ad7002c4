"""Weights in fewer bits, as arrays."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from gatestream.export.errors import PrecisionError
from gatestream.export.formats import (
    LARGEST,
    ZERO,
    halved,
    precision_of,
    quantised,
    rounded,
)
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.roles import Array
from gatestream.protos.weights import STEP, dequantised

MATRICES = arrays.arrays(
    np.float32,
    arrays.array_shapes(min_dims=2, max_dims=2, max_side=8),
    elements=st.floats(-1e3, 1e3, width=32).filter(lambda x: x == 0 or abs(x) > 1e-20),
)


@given(MATRICES)
def test_int8_is_within_half_a_unit_of_the_weight(matrix: Array) -> None:
    whole, scale = quantised("W", matrix)
    assert whole.dtype == np.int8
    assert (whole.shape, scale.shape) == (matrix.shape, matrix.shape[:1])
    unit = np.abs(matrix).max(axis=1, keepdims=True) / LARGEST
    off = np.abs(dequantised(whole, scale).astype(np.float64) - matrix)
    assert (off <= unit * (0.5 + 1e-4)).all()
    # Every unit uses the whole range: the scale is no larger than it need be.
    assert (np.abs(whole.astype(int)).max(axis=1)[unit[:, 0] > 0] == LARGEST).all()


def test_a_units_scale_is_its_own() -> None:
    whole, scale = quantised("W", np.array([[1000, 1], [0.001, 0]], np.float32))
    assert whole.tolist() == [[127, 0], [127, 0]]
    np.testing.assert_allclose(scale / STEP * 127, [1000, 0.001], rtol=1e-6)


def test_two_products_fit_into_sixteen_bits() -> None:
    """Where a processor adds them there; the hidden state and a row over its range are between -1 and 1."""
    largest = int(ZERO) + round(1 / float(STEP))
    assert int(ZERO) - round(1 / float(STEP)) > 0
    assert 2 * largest * LARGEST <= np.iinfo(np.int16).max


def test_float16_rounds_the_matrices_and_leaves_the_biases() -> None:
    rng = np.random.default_rng(0)
    weights = {
        name: rng.standard_normal(shape).astype(np.float32)
        for name, shape in (("cells.0.input_gate.W", (3, 2)), ("cells.0.input_gate.b", (3,)), ("head.weight", (2, 3)))
    }
    found = rounded(weights, "float16")
    np.testing.assert_array_equal(found["cells.0.input_gate.b"], weights["cells.0.input_gate.b"])
    for name in ("cells.0.input_gate.W", "head.weight"):
        np.testing.assert_array_equal(found[name], weights[name].astype(np.float16).astype(np.float32))
        assert (found[name] != weights[name]).any()


def test_int8_leaves_head_and_encoder() -> None:
    weights = {name: np.full((2, 2), 0.3, np.float32) for name in ("cells.0.input_gate.R", "head.weight")}
    weights["cells.0.input_gate.R"][0, 0] = 1
    found = rounded(weights, "int8")
    np.testing.assert_array_equal(found["head.weight"], weights["head.weight"])
    assert found["cells.0.input_gate.R"][0, 1] != weights["cells.0.input_gate.R"][0, 1]


def test_float32_changes_nothing() -> None:
    weights = {"cells.0.input_gate.R": np.full((2, 2), 0.1, np.float32)}
    assert rounded(weights, "float32") == weights


def test_what_is_too_large_for_float16_is_named() -> None:
    array = np.ones((2, 3), np.float32)
    array[1, 2] = -70000
    with pytest.raises(PrecisionError, match=r"'head.weight'\[1, 2\] is -70000, float16 ends at 65504: keep this"):
        halved("head.weight", array)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 1e-43])
def test_what_leaves_no_scale_is_named(wrong: float) -> None:
    array = np.ones((2, 3), np.float32)
    array[1] = wrong
    with pytest.raises(PrecisionError, match=r"'cells.0.input_gate.R', unit 1: its largest weight is .* no scale"):
        quantised("cells.0.input_gate.R", array)


def test_a_unit_without_weights_stays_without() -> None:
    whole, scale = quantised("W", np.zeros((2, 3), np.float32))
    assert not dequantised(whole, scale).any()


def test_the_spec_s_word_for_it() -> None:
    assert precision_of(pb.ModelSpec()) == "float32"
    assert precision_of(pb.ModelSpec(weights=pb.WEIGHT_FORMAT_INT8)) == "int8"
    with pytest.raises(PrecisionError, match="weights 9, which this version does not know"):
        precision_of(pb.ModelSpec(weights=9))  # type: ignore[arg-type]
