from pathlib import Path

import numpy as np
import pytest

from gatestream.cli.rows import RowsError
from gatestream.cli.rows.options import TableOptions
from gatestream.cli.rows.table import Table, read_table


def table(tmp_path: Path, text: str, *columns: str) -> Table:
    file = tmp_path / "a.csv"
    file.write_bytes(text.encode())
    return read_table(file, TableOptions(columns=columns))


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("line", ["\n", "\r\n"])
def test_numeric_columns_are_found(tmp_path: Path, separator: str, line: str) -> None:
    rows = [("day", "temp", "note", "load"), ("2024-01-01", "1.5", "dry", "1e3"), ("2024-01-02", "-2", "", " 7 ")]
    read = table(tmp_path, line.join(separator.join(row) for row in rows) + line + line)
    assert read.columns == ("temp", "load")
    assert read.skipped == ("day", "note")
    np.testing.assert_array_equal(read.values, np.array([[1.5, 1000], [-2, 7]], dtype=np.float32))
    assert read.values.dtype == np.float32


def test_without_a_header(tmp_path: Path) -> None:
    read = table(tmp_path, "1,a,2\n3,b,4\n")
    assert read.columns == ("column1", "column3")
    assert len(read.values) == 2


def test_columns_can_be_chosen(tmp_path: Path) -> None:
    read = table(tmp_path, "a,b,c\n1,2,nan\n3,4,5\n", "b", "a")
    assert read.columns == ("b", "a")
    assert read.values.tolist() == [[2, 1], [4, 3]]


def test_a_byte_order_mark_and_quotes_are_read(tmp_path: Path) -> None:
    assert table(tmp_path, '\ufeff"a, b",c\n1,2\n').columns == ("a, b", "c")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty, expected rows of numbers"),
        ("a,b\nx,y\n", "no numeric column among a, b"),
        ("a,b\n1,2\n3,nan\n", "line 3, column 'b': a missing value"),
        ("a,b\n1,2\n\n3,\n5,6\n", "line 4, column 'b': a missing value"),
        ("a,b\n1,2\n3,inf\n", "line 3, column 'b': 'inf' is not a finite number"),
        ("a,b\n1,2\n3,1e39\n", "line 3, column 'b': '1e39' is not a finite number"),
        ("a,b\n1,2\n3,4\n5,six\n", "line 4, column 'b': 'six' is not a number; mend it, or choose"),
        ("a,b\n1,2\n3\n", "line 3 has 1 cell, but line 1 has 2"),
        ("a,a\n1,2\n", "column 'a' stands in the header more than once"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RowsError, match=message):
        table(tmp_path, text)


def test_an_unknown_column(tmp_path: Path) -> None:
    with pytest.raises(RowsError, match="no column 'z'; it has a, b"):
        table(tmp_path, "a,b\n1,2\n", "a", "z")


def test_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"temp \xb0C\n1\n")
    with pytest.raises(RowsError, match="not UTF-8"):
        read_table(tmp_path / "a.csv", TableOptions())
