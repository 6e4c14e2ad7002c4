import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatestream.cli.rows import Form, RowsError
from gatestream.cli.rows.options import TableOptions
from gatestream.cli.rows.reading import Reader
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb


def model(*inputs: pb.TensorSpec) -> pb.ModelSpec:
    return pb.ModelSpec(name="m", inputs=inputs)


NAMED = model(pb.TensorSpec(name="x", dtype=pb.DATA_TYPE_FLOAT32, shape=[2], columns=["wind", "rain"]))
BARE = model(pb.TensorSpec(name="x", dtype=pb.DATA_TYPE_FLOAT32, shape=[2]))
ONE = model(pb.TensorSpec(name="x", dtype=pb.DATA_TYPE_FLOAT32, shape=[1]))
TOKENS = model(pb.TensorSpec(name="x", dtype=pb.DATA_TYPE_INT64, vocabulary=["a", "b", "é", "<end>", "7"]))
LINES = model(pb.TensorSpec(name="x", dtype=pb.DATA_TYPE_INT64, vocabulary=["a", "\n"]))
WHOLE = model(pb.TensorSpec(name="x", dtype=pb.DATA_TYPE_INT16, shape=[2]))
TRUTH = model(pb.TensorSpec(name="x", dtype=pb.DATA_TYPE_BOOL))
SCALAR = model(pb.TensorSpec(name="x", dtype=pb.DATA_TYPE_FLOAT64))
PAIR = model(
    pb.TensorSpec(name="x", dtype=pb.DATA_TYPE_FLOAT32, shape=[2]), pb.TensorSpec(name="day", dtype=pb.DATA_TYPE_INT64)
)


def silent(what: str) -> None:
    raise AssertionError(what)


def reader(spec: pb.ModelSpec, form: Form, *columns: str) -> Reader:
    return Reader(spec, form, TableOptions(columns=columns), note=silent)


def rows(spec: pb.ModelSpec, form: Form, text: str, *columns: str) -> list[Any]:
    return list(reader(spec, form, *columns).rows([text.encode()]))


@pytest.mark.parametrize(
    ("spec", "form", "text", "columns", "expected"),
    [
        (NAMED, "csv", "1,2\n3,4\n", (), [[1, 2], [3, 4]]),
        (NAMED, "csv", "wind,rain\n1,2", (), [[1, 2]]),
        (NAMED, "csv", "rain,at,wind\n1,noon,2\r\n", (), [[2, 1]]),
        (NAMED, "csv", "a,b\n1,2\n", ("b", "a"), [[2, 1]]),
        (BARE, "csv", '"a, or b",c\n1,"2"\n', (), [[1, 2]]),
        (BARE, "csv", "\n \n1e3, -2\n", (), [[1000, -2]]),
        (ONE, "csv", "x\n5\n", (), [[5]]),
        (TOKENS, "csv", "a\n<end>\n1\n7\n", (), ["a", "<end>", 1, "7"]),
        (TOKENS, "csv", "token\na\n", (), ["a"]),
        (WHOLE, "csv", "1,-32768\n+7, 3\n", (), [[1, -32768], [7, 3]]),
        (TRUTH, "csv", "true\nFalse\n1\n0\n", (), [True, False, 1, 0]),
        (SCALAR, "csv", "x\n0.5\n", (), [0.5]),
        (NAMED, "jsonl", '[1, 2]\n\n{"rain": 1, "wind": 2}\n{"x": [3, 4]}', (), [[1, 2], [2, 1], {"x": [3, 4]}]),
        (ONE, "jsonl", "5\n", (), [5]),
        (TOKENS, "jsonl", '"a"\n3\n', (), ["a", 3]),
        (PAIR, "jsonl", '{"day": 3, "x": [1, 2], "note": 0}\n', (), [{"x": [1, 2], "day": 3}]),
        (TOKENS, "text", "ab\r\né", (), ["a", "b", "é"]),
        (LINES, "text", "a\na", (), ["a", "\n", "a"]),
    ],
)
def test_rows(spec: pb.ModelSpec, form: Form, text: str, columns: tuple[str, ...], expected: list[Any]) -> None:
    assert rows(spec, form, text, *columns) == expected


@given(
    data=st.binary(min_size=1).map(lambda noise: "".join(f"{byte},{-byte}\n" for byte in noise).encode()),
    cuts=st.lists(st.integers(0, 400)),
)
def test_rows_are_the_same_however_the_text_is_cut(data: bytes, cuts: list[int]) -> None:
    ends = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[begin:end] for begin, end in itertools.pairwise(ends)]
    assert list(reader(BARE, "csv").rows(pieces)) == rows(BARE, "csv", data.decode())


def test_a_character_cut_in_two() -> None:
    both = "é".encode()
    assert list(reader(TOKENS, "text").rows([b"a" + both[:1], both[1:] + b"b"])) == ["a", "é", "b"]
    with pytest.raises(RowsError, match=r"line 1: byte 2 \(0xc3\) is not UTF-8"):
        list(reader(TOKENS, "text").rows([b"a", both[:1]]))


def test_a_row_leaves_when_its_line_ends() -> None:
    seen: list[bytes] = []

    def pieces() -> Any:
        for piece in (b"1,", b"2", b"\n3,4\n", b"5,6"):
            seen.append(piece)
            yield piece

    reading = reader(BARE, "csv").rows(pieces())
    assert (next(reading), len(seen)) == ([1, 2], 3)
    assert (next(reading), len(seen)) == ([3, 4], 3)
    assert (next(reading), len(seen)) == ([5, 6], 4)


def test_ended_lines_of_text() -> None:
    reading = reader(TOKENS, "text")
    assert len(list(reading.rows([b"ab\n\na\n"]))) == 3
    assert [reading.ended(steps) for steps in (1, 2, 2, 3)] == [0, 2, 0, 1]


@pytest.mark.parametrize(
    ("spec", "form", "text", "message"),
    [
        (
            NAMED,
            "csv",
            "wind,snow\n1,2\n",
            "line 1: no header with the columns wind, rain that model 'm' takes; wind, snow",
        ),
        (NAMED, "csv", "1,2,3\n", "line 1: no header with the columns wind, rain"),
        (NAMED, "csv", "1,2\n\n1,\n", "line 3, column 'rain': '' is a missing value; choose"),
        (NAMED, "csv", "1,2\ninf,1\n", "line 2, column 'wind': 'inf' is not a finite number"),
        (BARE, "csv", "1,2\n1,2,3\n", "line 2 has 3 cells, but line 1 has 2"),
        (BARE, "csv", "a,b,c\n", "line 1: 3 columns came, and input 'x' takes 2 numbers without names"),
        (BARE, "csv", "1\n", "line 1: 1 columns came, and input 'x' takes 2 numbers without names"),
        (WHOLE, "csv", "1,2\n1,2.5\n", "line 2, column 'column2': '2.5' is not a whole number"),
        (TRUTH, "csv", "true\nmaybe\n", "line 2, column 'column1': 'maybe' is not true, false, 1 or 0"),
        (PAIR, "csv", "1,2\n", "a row of model 'm' is no plain list of numbers, so csv cannot hold it; use jsonl"),
        (TOKENS, "csv", "a\nz\n", "line 2, column 'column1': 'z' is no token of model 'm'"),
        (NAMED, "jsonl", '{"wind": 1}\n', "line 1: keys wind came; wind, rain were expected"),
        (PAIR, "jsonl", '{"x": 1}\n', "line 1: keys x came; day, x were expected"),
        (NAMED, "jsonl", "[Infinity, 1]\n", "line 1: Infinity is not a finite number"),
        (NAMED, "jsonl", "1,2\n", "line 1: column 2: not JSON: Extra data"),
        (TOKENS, "text", "ab\naz", "line 2, column 2: 'z' is no token of model 'm'; it has 7 <end> a b é"),
    ],
)
def test_what_cannot_be_read(spec: pb.ModelSpec, form: Form, text: str, message: str) -> None:
    with pytest.raises(RowsError) as caught:
        rows(spec, form, text)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("spec", "form", "columns", "message"),
    [
        (NAMED, "text", (), "model 'm' has no vocabulary"),
        (PAIR, "csv", (), "no plain list of numbers"),
        (NAMED, "csv", ("a",), "1 columns were named; input 'x' has 2"),
    ],
)
def test_a_form_that_does_not_fit(spec: pb.ModelSpec, form: Form, columns: tuple[str, ...], message: str) -> None:
    with pytest.raises(RowsError, match=message):
        reader(spec, form, *columns)
