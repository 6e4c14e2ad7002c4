"""Whatever a caller passes reaches the model as it is, or is refused with its place before anything is sent."""

import array
import math
import re
import struct
from collections import UserList, deque
from decimal import Decimal
from fractions import Fraction
from typing import Any, Literal

import hypothesis.extra.numpy as npst
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gatestream.client import Client
from gatestream.client.aio import connect as connect_aio
from gatestream.client.columns import Layout
from gatestream.client.errors import InputError, NotFiniteError, TokenOutOfRangeError
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.support.process import ServerProcess

FLOATS = Layout(
    pb.ModelSpec(name="f", inputs=[pb.TensorSpec(name="x", dtype=pb.DATA_TYPE_FLOAT32, shape=[2])]),
    outputs=True,
    gates=False,
)
TOKENS = Layout(
    pb.ModelSpec(name="t", inputs=[pb.TensorSpec(name="x", dtype=pb.DATA_TYPE_INT64, vocabulary=["a", "b", "c"])]),
    outputs=True,
    gates=False,
)


def of_type(dtype: pb.DataType, limit: int = 0) -> Layout:
    spec = pb.ModelSpec(name="o", inputs=[pb.TensorSpec(name="x", dtype=dtype, limit=limit)])
    return Layout(spec, outputs=True, gates=False)


HALF, DOUBLE = of_type(pb.DATA_TYPE_FLOAT16), of_type(pb.DATA_TYPE_FLOAT64)
TRUTH = of_type(pb.DATA_TYPE_BOOL)
# Which whole numbers each takes.
RANGES = [
    (TOKENS, 0, 2),
    (of_type(pb.DATA_TYPE_INT16), -(2**15), 2**15 - 1),
    (of_type(pb.DATA_TYPE_INT8), -(2**7), 2**7 - 1),
    (of_type(pb.DATA_TYPE_UINT8), 0, 2**8 - 1),
    (of_type(pb.DATA_TYPE_INT32), -(2**31), 2**31 - 1),
    (of_type(pb.DATA_TYPE_INT16, limit=5), 0, 4),
    (of_type(pb.DATA_TYPE_INT8, limit=1000), 0, 2**7 - 1),
]
IDS = Layout(
    pb.ModelSpec(name="i", inputs=[pb.TensorSpec(name="x", dtype=pb.DATA_TYPE_INT64)]), outputs=True, gates=False
)


class Table:
    """As a data frame is: an array when asked to be one."""

    def __init__(self, values: Any) -> None:
        self._values = values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        if isinstance(self._values, Exception):
            raise self._values
        return self._values


# ---- A reference without NumPy's conversions: number by number ---------------------------------


def number(value: Any, layout: Layout) -> float | int | None:
    """What the model must get for one value; None: it must be refused."""
    if layout is TRUTH and value in (0, 1) and isinstance(value, int):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or layout is TRUTH:
        return None
    if layout in (FLOATS, HALF, DOUBLE):
        form = {FLOATS: "<f", HALF: "<e", DOUBLE: "<d"}[layout]
        try:
            (rounded,) = struct.unpack(form, struct.pack(form, value))
        except (OverflowError, struct.error):
            return None
        return float(rounded) if math.isfinite(rounded) else None
    if isinstance(value, float):
        return None
    least, most = next((bounds for each, *bounds in RANGES if each is layout), (-(2**63), 2**63 - 1))
    return value if least <= value <= most else None


# Integers that float64 holds: a reference that goes by it rounds once, as it should.
DTYPES = [
    "?",
    "i1",
    "<i2",
    ">i4",
    "<i8",
    ">i8",
    "u1",
    "<u4",
    "<u8",
    ">u8",
    "<f2",
    "<f4",
    ">f4",
    "<f8",
    ">f8",
    "c8",
    "M8[s]",
]


@st.composite
def arrays(draw: st.DrawFn) -> Any:
    """Arrays of any type and layout in memory, [rows, 2] or [rows]."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    width = draw(st.sampled_from([(), (2,)]))
    elements: Any = None
    if dtype.kind in "iu":
        info = np.iinfo(str(dtype))
        low, high = max(int(info.min), -(2**53)), min(int(info.max), 2**53)
        elements = st.integers(max(low, -2), min(high, 4)) | st.sampled_from([low, high, int(info.min)])
        if dtype.itemsize == 8:
            elements |= st.sampled_from([2**62, 2**63 - 2**10] + ([2**63, 2**64 - 2**11] if dtype.kind == "u" else []))
    elif dtype.kind == "f":
        widths: dict[int, Literal[16, 32, 64]] = {2: 16, 4: 32, 8: 64}
        elements = st.floats(width=widths[dtype.itemsize]) | st.sampled_from([0.0, 1.5, -2.0])
    shape = (draw(st.integers(1, 4)), *width)
    made = draw(npst.arrays(dtype, shape, elements=elements))
    how = draw(st.sampled_from(["as it is", "reversed", "every other", "fortran", "read-only", "rows"]))
    if how == "reversed":
        made = made[::-1]
    elif how == "every other":
        made = np.repeat(made, 2, axis=0)[::2]
    elif how == "fortran":
        made = np.asfortranarray(made)
    elif how == "read-only":
        made.flags.writeable = False
    return list(made) if how == "rows" else made


LISTS: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.integers(-1, 4),
        st.sampled_from([2**40, 2**63, -(2**63) - 1, 2**70, 10**400, 1e38, 3.5e38, 1e300, 0.5, 2.0]),
        st.sampled_from([True, None, "a", "z", b"a", 1j, math.nan, math.inf, Decimal(1), Fraction(1, 2)]),
    ),
    lambda inner: st.lists(inner, min_size=1, max_size=3),
    max_leaves=6,
)


def leaves(value: Any) -> list[Any]:
    if isinstance(value, np.ndarray | list):
        return [leaf for item in value for leaf in leaves(item)]
    return [value.item()] if isinstance(value, np.generic) and value.dtype.kind != "M" else [value]


def shape_of(value: Any) -> tuple[int, ...] | None:
    """Of nested lists; None: they are ragged."""
    if isinstance(value, np.ndarray):
        return tuple(value.shape)
    if not isinstance(value, list):
        return ()
    inner = {shape_of(item) for item in value}
    (only,) = inner if len(inner) == 1 else (None,)
    return None if only is None else (len(value), *only)


@given(st.one_of(arrays(), LISTS), st.sampled_from([FLOATS, IDS, HALF, DOUBLE, TRUTH, *(each for each, *_ in RANGES)]))
def test_as_the_reference_says_or_refused(value: Any, layout: Layout) -> None:
    assume(not (layout is TOKENS and isinstance(value, str)))  # A text is the list of its tokens.
    numbers = [number(leaf, layout) for leaf in leaves(value)]
    if layout is TOKENS and all(isinstance(leaf, str) for leaf in leaves(value)):
        numbers = [{"a": 0, "b": 1, "c": 2}.get(leaf) for leaf in leaves(value)]
    shape = shape_of(value)
    fits = shape is not None and len(shape) == (2 if layout is FLOATS else 1) and shape[1:] in ((), (2,))
    if fits and None not in numbers:
        (got,) = layout.encode(value, ("time",))
        assert got.dtype == layout.inputs[0].column.dtype
        assert got.flags.c_contiguous
        assert got.shape == shape
        assert got.ravel().tolist() == numbers
        return
    with pytest.raises(InputError) as caught:
        layout.encode(value, ("time",))
    text = str(caught.value)
    assert text.startswith(f"input 'x' of '{layout.model}': ")
    assert "expected" in text or "pass" in text
    assert len(text) < 400
    named = re.search(r" came at ([^;]+);", text)
    if fits and named:
        assert shape is not None
        # The place that it names is a bad one.
        place = tuple(int(word) for word in named[1].replace(",", "").split()[1::2])
        assert numbers[int(np.ravel_multi_index(place, shape))] is None


class Rude:
    """Not even its text can be had."""

    def __repr__(self) -> str:
        raise RuntimeError


def nested(depth: int) -> Any:
    return [nested(depth - 1)] if depth else 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            np.ma.array([[1, 2], [3, 4]], mask=[[False, False], [False, True]]),
            "a masked value came at step 1, feature 1;",
        ),
        ([[1, 2], np.ma.array([3, 4], mask=[True, False])], "a masked value came at step 1, feature 0;"),
        ([[1, 2], [3, np.ma.masked]], "a masked value came at step 1, feature 1;"),
        (Table(np.ma.array([[1, 2]], mask=[[False, True]])), "a masked value came at step 0, feature 1;"),
        ([[1, 2], [True, 2]], r"True \(bool\) came at step 1, feature 0;"),
        ([[1, 2], [np.True_, 2]], r"True \(bool\) came at step 1, feature 0;"),
        ([[1, 2], np.array([False, True])], r"False \(bool\) came at step 1, feature 0;"),
        (deque([[1, 2], [3, False]]), r"False \(bool\) came at step 1, feature 1;"),
        (UserList([[1, 2], [3, None]]), r"None \(NoneType\) came at step 1, feature 1;"),
        (np.array([[True, False]]), r"True \(bool\) came at step 0, feature 0;"),
        (Table(np.array([[True, False]])), r"True \(bool\) came at step 0, feature 0;"),
        (Table(RuntimeError("on another device")), "which is no array: on another device came;"),
        (np.array([[1, None]], object), r"None \(NoneType\) came at step 0, feature 1;"),
        ([[1, "2"]], "text among numbers came"),
        (np.array([["1", "2"]]), "text came; the model has no vocabulary"),
        ([[1, b"2"]], r"b'2' \(bytes\) came at step 0, feature 1;"),
        ([[1, 2 + 0j]], r"\(2\+0j\) \(complex\) came at step 0, feature 1;"),
        ([[1, Decimal(2)]], r"Decimal\('2'\) \(Decimal\) came at step 0, feature 1;"),
        (np.array([[1, 2]], "M8[s]"), r"datetime64\[s\] numbers came at step 0, feature 0;"),
        (np.array([[1, 2]], "m8[s]"), r"timedelta64\[s\] numbers came"),
        (np.array([[1, 1e39]]), r"1e\+39 came at step 0, feature 1; finite numbers, at most 3.4028235e\+38 in size"),
        ([[1, -(10**39)]], "came at step 0, feature 1; finite numbers"),
        ([[1, 10**400]], r"a whole number of 1329 bits came at step 0, feature 1;"),
        ([[1, math.nan]], "nan came at step 0, feature 1; finite numbers"),
        (np.array([[1, -np.inf]], "f4"), "-inf came at step 0, feature 1; finite numbers"),
        ([[1, 2], [3]], r"shape \[1\] beside shape \[2\] came at step 1;"),
        ([[1, 2], 3], r"shape \[\] beside shape \[2\] came at step 1;"),
        ({"a": 1}, "inputs 'a' of 'f' came; 'x' were expected"),
        (object(), r"object object at .* came;"),
        (np.array(1.0), r"shape \[\] came; \[time, 2\] float32 was expected"),
        (np.empty((0, 2)), r"shape \[0, 2\] came, a chunk of nothing"),
        ([], r"shape \[0\] came; \[time, 2\]"),
        (bytes(16), "came; numbers were expected"),
        (Rude(), r"a value \(Rude\) came;"),
        (np.array(object(), object), r"object object at .* came;"),
        (nested(40), "lists nested more than 32 deep"),
        ((each for each in [[1, 2]]), "came; numbers were expected"),
    ],
)
def test_what_is_no_number(value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        FLOATS.encode(value, ("time",))
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([0, 2.5], r"2.5 \(float\) came at step 1; whole numbers, or tokens of 'a', 'b', 'c', were expected"),
        ([0, 2.0], r"2.0 \(float\) came at step 1;"),
        (np.array([0.0, 2.0]), r"0.0 \(float64\) came at step 0;"),
        ([0, -1], "-1 came at step 1; 0 to 2 was expected"),
        ([0, 3], "3 came at step 1; 0 to 2 was expected"),
        (np.array([0, 2**64 - 1], np.uint64), "18446744073709551615 came at step 1; 0 to 2 was expected"),
        ([0, 2**64 - 1], "18446744073709551615.* came at step 1;"),
        ([0, 2**70], "a whole number of 71 bits came at step 1;"),
        ([2**63, -1], "came at step 0;"),
        (["a", 1], "text among numbers came"),
        (["a", "x"], r"'x' \(str\) came at step 1; one of 'a', 'b', 'c' was expected"),
        ([0, True], r"True \(bool\) came at step 1;"),
    ],
)
def test_what_is_no_token(value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        TOKENS.encode(value, ("time",))


def test_unsigned_is_not_negative() -> None:
    with pytest.raises(TokenOutOfRangeError, match=f"{2**64 - 1} came at step 1; at most {2**63 - 1} was expected"):
        IDS.encode(np.array([1, 2**64 - 1], np.uint64), ("time",))
    (ids,) = IDS.encode(np.array([1, 2**63 - 1], np.uint64), ("time",))
    assert ids.tolist() == [1, 2**63 - 1]


def test_nothing_of_numpy_reaches_the_callers_stderr() -> None:
    """As whoever has NumPy raise on everything would see."""
    with np.errstate(all="raise"):
        with pytest.raises(NotFiniteError):
            FLOATS.encode([[1e300, 1]], ("time",))
        (rows,) = FLOATS.encode([[1e-300, 1]], ("time",))
    assert rows.tolist() == [[0, 1]]


def test_in_a_group_the_session_is_named() -> None:
    xs = np.ones((3, 4, 2))
    xs[1, 2, 0] = np.inf
    with pytest.raises(NotFiniteError, match="inf came at session 7, step 2, feature 0;") as caught:
        FLOATS.encode(xs, (3, "time"), np.array([0, 7, 9]))
    assert caught.value.members.tolist() == [7]


GOOD: list[Any] = [
    np.array([3, 4], np.float16),
    np.array([3, 4], ">f8"),
    np.array([3, 4], np.int8),
    np.array([3, 9, 4], np.uint64)[::2],
    np.ma.array([3, 4]),
    array.array("d", [3, 4]),
    Table(np.array([3, 4])),
    [np.float32(3), np.int16(4)],
    np.array([3, 4.0], object),
    (3, 4),
    range(3, 5),
]
BAD: list[Any] = [
    [True, 1],
    [None, 1],
    [1e39, 1],
    [math.nan, 1],
    np.ma.array([1, 2], mask=[True, False]),
    ["1", "2"],
    [1],
]


def test_what_is_accepted_reaches_the_model(gs: Client) -> None:
    with gs.session("accumulator") as s, gs.group("accumulator", 2) as group:
        for k, value in enumerate(GOOD, 1):
            np.testing.assert_array_equal(s.step(value), [3 * k, 4 * k])
            np.testing.assert_array_equal(group.step([value, value]), [[3 * k, 4 * k]] * 2)
            for bad in BAD:
                with pytest.raises(InputError):
                    s.step(bad)
                with pytest.raises(InputError):
                    s.run([value, bad])
                with pytest.raises(InputError):
                    group.step([value, bad])
            assert s.position == k
            assert group.positions.tolist() == [k, k]
        np.testing.assert_array_equal(s.run(GOOD[:3])[-1], [3 * (k + 3), 4 * (k + 3)])


def test_a_live_source_says_which_row(gs: Client) -> None:
    with gs.session("accumulator") as s:
        rows: list[Any] = [[1, 1], [2, 2], [3, None]]
        answers = s.stream(rows)
        assert [y[0] for y in (next(answers), next(answers))] == [1, 3]
        with pytest.raises(
            InputError, match=r"row 2: input 'x' of 'accumulator': None \(NoneType\) came at feature 1;"
        ):
            next(answers)
        assert s.position == 2


async def test_for_asyncio_too(server: ServerProcess) -> None:
    async def source() -> Any:
        for row in ([1, 1], [2, True]):
            yield row

    bad: Any = [[1, 1], [1, 1e39]]
    async with await connect_aio(server.address) as gs, await gs.session("accumulator") as s:
        with pytest.raises(InputError, match="came at feature 0;"):
            await s.step([math.nan, 1])
        answers = s.stream(source())
        np.testing.assert_array_equal(await anext(answers), [1, 1])
        with pytest.raises(InputError, match=r"row 1: .*came at feature 1;"):
            await anext(answers)
        assert s.position == 1
    async with await connect_aio(server.address) as gs, await gs.group("accumulator", 2) as group:
        with pytest.raises(InputError, match="came at session 1, feature 1;") as caught:
            await group.step(bad)
        assert caught.value.members.tolist() == [1]
        np.testing.assert_array_equal(await group.step([[1, 1], [2, 2]]), [[1, 1], [2, 2]])
