"""Any table, in any dialect: a whole file, a pipe cut anywhere, and the fast path of large files read the same rows."""

import contextlib
import csv
import io
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatestream.cli.rows import RowsError
from gatestream.cli.rows import table as tables
from gatestream.cli.rows.options import TableOptions
from gatestream.cli.rows.reading import Reader
from gatestream.cli.rows.records import Records
from gatestream.cli.rows.table import read_table
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

CELLS = st.one_of(
    st.floats(-1e6, 1e6, width=32).map(repr),
    st.integers(-(10**6), 10**6).map(str),
    st.sampled_from(["", "NA", "nan", "x", "1_0", " 7", "1e3", "+5", ".5", "5.", "inf", "1e400", "٣", "0x1F", "1.2.3"]),
)
NUMBERS = st.one_of(st.floats(-1e6, 1e6, width=32).map(repr), st.integers(-(10**6), 10**6).map(str))


@st.composite
def written(draw: st.DrawFn, cells: st.SearchStrategy[str]) -> tuple[str, str, str, list[list[str]]]:
    """The text of a table with the columns a, b, c, its delimiter and decimal mark, and its cells."""
    delimiter, decimal = draw(
        st.sampled_from([(",", "."), (";", "."), (";", ","), ("\t", ","), ("|", "."), (" ", ".")])
    )
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    rows = draw(st.lists(st.lists(cells, min_size=3, max_size=3), min_size=1, max_size=12))
    if decimal == ",":
        rows = [[cell.replace(".", ",") for cell in row] for row in rows]
    out = io.StringIO()
    quoting = csv.QUOTE_ALL if draw(st.booleans()) else csv.QUOTE_MINIMAL
    writer = csv.writer(out, delimiter=delimiter, quoting=quoting, lineterminator=end)  # type: ignore[arg-type]
    writer.writerows([["a", "b", "c"], *rows])
    return out.getvalue() + draw(st.sampled_from(["", end, end + end])), delimiter, decimal, rows


def model(columns: int) -> pb.ModelSpec:
    names = ["a", "b", "c"][:columns]
    return pb.ModelSpec(
        name="m", inputs=[pb.TensorSpec(name="x", dtype=pb.DATA_TYPE_FLOAT32, shape=[columns], columns=names)]
    )


def streamed(pieces: list[bytes], options: TableOptions, *, live: bool) -> tuple[list[Any], str]:
    """The rows that came out, and the error behind them."""
    rows: list[Any] = []
    notes: list[str] = []
    try:
        rows.extend(Reader(model(3), "csv", options, live=live, note=notes.append).rows(pieces))
    except RowsError as error:
        return rows, str(error)
    return rows, ""


def never(*_: object) -> None:
    return None


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    ends = [0, *sorted(min(each, len(data)) for each in cuts), len(data)]
    return [data[begin:end] for begin, end in itertools.pairwise(ends)]


@settings(max_examples=60)
@given(written(CELLS), st.lists(st.integers(0, 300), max_size=8), st.sampled_from(["refuse", "drop", "hold"]))
def test_a_pipe_reads_what_a_file_does(table: Any, cuts: list[int], missing: Any) -> None:
    text, delimiter, decimal, _ = table
    data = text.encode()
    said = TableOptions(delimiter=delimiter, decimal=decimal, missing=missing)
    whole = streamed([data], said, live=False)
    assert streamed(cut(data, cuts), said, live=True) == whole
    # What it finds out by its first line alone.
    detected = streamed(cut(data, cuts), TableOptions(missing=missing), live=True)
    assert detected == streamed([data], TableOptions(delimiter=delimiter, missing=missing), live=True)
    # A file is looked through for its decimal mark; a row of a pipe waits for no other.
    whole = streamed([data], TableOptions(delimiter=delimiter, missing=missing), live=False)
    if "--decimal" not in detected[1]:
        assert detected == whole
    else:
        assert detected[0] == whole[0][: len(detected[0])]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|", " "])
@pytest.mark.parametrize("decimal", [".", ","])
@pytest.mark.parametrize("head", ["a{d}b{d}c\n", '"a"{d}"b"{d}"c"\n', "c{d}note{d}b{d}a\n", ""])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_pipe_whose_dialect_is_detected_reads_what_a_file_does(
    delimiter: str, decimal: str, head: str, end: str
) -> None:
    if delimiter == decimal or (delimiter == " " and not head):
        decimal = "."
    rows = [[k + 0.25, 7.5 - k, 1.125 * k] for k in range(20)]
    cells = [[str(x).replace(".", decimal) for x in row] for row in rows]
    if "note" in head:
        cells = [[c, "x" if delimiter == " " else "x y", b, a] for a, b, c in cells]
    text = head.format(d=delimiter) + "".join(delimiter.join(row) + "\n" for row in cells)
    data = text.replace("\n", end).encode()
    expected = (rows, "")
    assert streamed([data], TableOptions(), live=False) == expected
    assert streamed(cut(data, list(range(0, len(data), 7))), TableOptions(), live=True) == expected


@given(written(NUMBERS))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_train_and_stream_read_the_same_numbers(tmp_path: Path, table: Any) -> None:
    text, _, _, cells = table
    file = tmp_path / "a.csv"
    file.write_bytes(text.encode())
    read = None
    # Two numbers may be one in float32, and a table of a row or two may be read in two ways: that is said.
    with contextlib.suppress(RowsError):
        read = read_table(file, TableOptions(columns=("a", "b", "c")))
    if read is None:
        return
    expected = [[float(cell.replace(",", ".")) for cell in row] for row in cells]
    np.testing.assert_array_equal(read.values, np.array(expected, np.float32))
    rows, error = streamed([text.encode()], TableOptions(), live=False)
    assert (rows, error) == (expected, "")


@given(written(CELLS), st.booleans())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_blocks_read_at_once_are_read_as_row_by_row(tmp_path: Path, table: Any, with_header: bool) -> None:
    text, delimiter, decimal, _ = table
    file = tmp_path / "a.csv"
    file.write_bytes(text.encode())
    options = TableOptions(
        delimiter=delimiter, decimal=decimal, header=True, missing="hold", columns=("a", "c") if with_header else ("b",)
    )

    def outcome(slow: bool) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            # A line a block, so that no header or odd row keeps its neighbours from being read at once.
            patch.setattr(tables, "blocks", lambda texts: (each + "\n" for each in "".join(texts).splitlines()))
            if slow:
                patch.setattr(Records, "plain", never)
            try:
                read = read_table(file, options)
            except RowsError as error:
                return str(error)
            return read.values.tolist(), read.notes

    assert outcome(slow=False) == outcome(slow=True)
