import numpy as np
import pytest

from gatestream.export.proof.comparison import DifferenceError, Pair, compare

ALLOWED = np.full((1, 1, 1), 1e-5)


def pair(tensor: str, apart: dict[tuple[int, ...], float], row: int = 0, steps: int = 6) -> Pair:
    """Zeros, but for the differences."""
    shape = (steps, 3) if tensor == "y" else (steps, 2, 3)
    found = np.zeros(shape, np.float32)
    for at, difference in apart.items():
        found[at] = difference
    return Pair(tensor, row, np.arange(10, 10 + steps), found, np.zeros(shape), ALLOWED.reshape((1,) * len(shape)))


def difference(*pairs: Pair) -> DifferenceError:
    with pytest.raises(DifferenceError) as caught:
        compare("numpy", "singly", pairs)
    return caught.value


def test_exact_is_told_from_close() -> None:
    same, close = compare("numpy", "singly", [pair("f", {}), pair("h", {(2, 1, 0): 5e-6})])
    assert (same.tensor, same.exact, same.max_abs_difference) == ("f", True, 0)
    assert (close.tensor, close.exact) == ("h", False)
    assert close.max_abs_difference == pytest.approx(5e-6)
    assert same.steps == close.steps == 16


def test_a_reference_in_float64_is_met_exactly_when_its_float32_is() -> None:
    values = np.full((1, 1, 1), 0.1)
    (figure,) = compare("numpy", "singly", [Pair("f", 0, np.arange(1), values.astype(np.float32), values, ALLOWED)])
    assert figure.exact


def test_rows_of_a_tensor_make_one_figure() -> None:
    (figure,) = compare("numpy", "singly", [pair("f", {(0, 0, 0): 1e-6}), pair("f", {(1, 0, 0): 2e-6}, row=1)])
    assert figure.max_abs_difference == pytest.approx(2e-6)


def test_the_first_step_is_named_with_its_largest_difference() -> None:
    error = difference(pair("f", {(4, 0, 0): 9.0, (2, 1, 1): 1e-3, (2, 1, 2): 2e-3}, row=3))
    found = error.difference
    assert (found.tensor, found.step, found.row, found.layer, found.unit) == ("f", 12, 3, 1, 2)
    assert found.found == pytest.approx(2e-3)
    assert (found.expected, found.tolerance) == (0, 1e-5)
    assert str(error) == (
        "f differs from numpy (singly), first at step 12, row 3, layer 1, unit 2: 0.00200000009, expected 0, "
        "off by 0.002, at most 1e-05"
    )


def test_of_one_step_what_is_computed_first_is_named() -> None:
    """Layers from the bottom, then the gates, c, h, and y at last."""
    at: dict[tuple[int, ...], float] = {(1, 0, 0): 1.0}
    assert difference(pair("y", {(1, 0): 1.0}), pair("h", at), pair("c", at), pair("o", at)).difference.tensor == "o"
    above = pair("i", {(1, 1, 0): 1.0})
    assert difference(pair("y", {(1, 0): 1.0}), above, pair("c", at)).difference.tensor == "c"
    assert difference(pair("y", {(1, 0): 1.0}), pair("h", {(2, 0, 0): 1.0})).difference.tensor == "y"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_differs(value: float) -> None:
    assert difference(pair("g", {(3, 0, 1): value})).difference.unit == 1
