"""How a table is written is found out, or said; what can be read in two ways is an error that names the option."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gatestream.cli.rows import RowsError
from gatestream.cli.rows.options import TableOptions
from gatestream.cli.rows.table import Table, read_table

ROWS = [(20 + k % 7 + 0.25, 50 + k % 11 + 0.5) for k in range(60)]


def read(tmp_path: Path, text: str, **options: Any) -> Table:
    file = tmp_path / "a.csv"
    file.write_bytes(text.encode())
    return read_table(file, TableOptions(**options))


def refused(tmp_path: Path, text: str, **options: Any) -> str:
    with pytest.raises(RowsError) as caught:
        read(tmp_path, text, **options)
    return str(caught.value).removeprefix(f"{tmp_path / 'a.csv'}: ")


def written(delimiter: str, decimal: str = ".", end: str = "\n") -> str:
    def number(value: float) -> str:
        return str(value).replace(".", decimal)

    return "".join(f"{number(a)}{delimiter}{number(b)}{end}" for a, b in ROWS)


@pytest.mark.parametrize(
    ("head", "body", "columns", "note"),
    [
        ("a,b\n", written(","), "a b", "delimiter comma, header in line 1"),
        ("", written(";", ","), "column1 column2", "delimiter semicolon, decimal comma, no header"),
        ("", written("\t", ","), "column1 column2", "delimiter tab, decimal comma, no header"),
        ("a;b\n", written(";", ","), "a b", "delimiter semicolon, decimal comma, header in line 1"),
        ("a|b\n", written("|"), "a b", "delimiter bar, header in line 1"),
        ("a b\n", written(" "), "a b", "delimiter space, header in line 1"),
        ("a,b\r", written(",", end="\r"), "a b", "delimiter comma, header in line 1"),
        ("a,b\r\n", written(",", end="\r\n"), "a b", "delimiter comma, header in line 1"),
        ("sep=;\r\na;b\r\n", written(";", end="\r\n"), "a b", "delimiter semicolon, header in line 2"),
        ("\ufeffsep=;\na;b\n", written(";"), "a b", "delimiter semicolon, header in line 2"),
        ("\n \na,b\n", written(","), "a b", "delimiter comma, header in line 3"),
        ("t (C, in);h (%, in)\n", written(";", ","), "t (C, in)|h (%, in)", "delimiter semicolon, decimal comma"),
    ],
)
def test_what_is_detected_is_said(tmp_path: Path, head: str, body: str, columns: str, note: str) -> None:
    table = read(tmp_path, head + body)
    np.testing.assert_array_equal(table.values, np.array(ROWS, np.float32))
    assert table.columns == tuple(columns.split("|" if "|" in columns else " "))
    assert note in table.notes[0]


@pytest.mark.parametrize("quote", ['"', "'"])
def test_quoted_cells_hold_delimiters_and_line_ends(tmp_path: Path, quote: str) -> None:
    rows = "".join(f"{a},{quote}x, y\nz{quote},{b}\n" for a, b in ROWS)
    table = read(tmp_path, f"a,{quote}the note{quote},b\n" + rows)
    np.testing.assert_array_equal(table.values, np.array(ROWS, np.float32))
    assert table.skipped == ("the note",)


def test_spaces_around_cells_are_no_part_of_them(tmp_path: Path) -> None:
    assert read(tmp_path, '"a", "b"\n' + "".join(f'"{a}", "{b}"\n' for a, b in ROWS)).columns == ("a", "b")


def test_rows_of_empty_cells_at_the_end_are_none_and_said(tmp_path: Path) -> None:
    table = read(tmp_path, "a;b;;\n" + "".join(f"{a};{b};;\n" for a, b in ROWS) + ";;;\n;;;\n")
    assert table.values.shape == (len(ROWS), 2)
    assert table.skipped == ("column3", "column4")
    assert table.notes[1] == "2 rows of empty cells at the end: not read"


@pytest.mark.parametrize(
    ("text", "message", "settled"),
    [
        ("2019,2020\n" + written(","), "line 1: 2019, 2020 may be names of columns, or numbers", {"header": True}),
        ("2019,2020\n" + written(","), "--header or --no-header", {"header": False}),
        (
            "a\n" + written(".", "").replace(".", ","),
            "line 2 has 2 cells, but line 1 has 1; mend it, or",
            {"decimal": ","},
        ),
        ("a;b\n1,5;2\n3.5;4\n", "line 3, column 'a': '3.5' has a decimal point, and by line 2 numbers have", None),
        ("a;b\n1,5;2\n3.5;4\n", "say which with --decimal", None),
        ("a;b\n1,234;2\n12,345;4\n", "line 2, column 'a': '1,234' may have a decimal comma or a sep", {"decimal": ","}),
        ("a\tb\n1,234\t2.5\n", "line 2, column 'a': '1,234' has a decimal comma, and by line 2 numbers have a", None),
        ("a,b\n1,2\n" * 1 + '3,"4\n5,6\n', "line 3, column 2: the quote that opens here is never closed", None),
        ('a,b,n\n1,2,"x\n3,4,y\n5,6,z"\n7,8,z\n', "line 2: a quoted cell goes on to line 4 and holds", {"quote": '"'}),
        ('a,b\n1,2\n3,"4"5\n', "line 3: not CSV: ", None),
        ("# made by a logger\na,b\n1,2\n", "line 2 has 2 cells, but line 1 has 1", None),
        ("sep=;\na;b\n1;2\n", "line 1 says sep=;, and --delimiter says ','", None),
        ("a,b\n", "no rows under the header in line 1", None),
        ("\n\n", "empty, expected rows of numbers", None),
        ("a,b\n\x001,2\n", "line 2: byte 1 is NUL", None),
        ("a,b\n1_000,2_000\n", "no numeric column among a, b", None),
        ("a,b\n1.5,0x10\n2.5,0x11\n", None, None),
        ("a;b\n1.100,5;1\n1.101,5;2\n", "line 2, column 'a': '1.100,5' is not a number; write it without sep", None),
        ('a,b\n"1,100.5",1\n"1,101.5",2\n', "line 2, column 'a': '1,100.5' is not a number", {"columns": ("b",)}),
        ("1.100,5;inf\n1.101,5;2\n", "line 1, column 'column1': '1.100,5' is not a number", None),
        ("a,b\n1.5,1e400\n2.5,2\n", "line 2, column 'b': '1e400' is not a finite number in float32", None),
        ("a\n1\n\n2\n", "line 3, column 'a': a missing value", {"missing": "drop"}),
        ("a,b\n1,2\n,\n3,4\n", "line 3, column 'a': a missing value", {"missing": "hold"}),
    ],
)
def test_what_is_ambiguous_is_an_error_that_an_option_settles(
    tmp_path: Path, text: str, message: str | None, settled: dict[str, Any] | None
) -> None:
    options = {"delimiter": ","} if "--delimiter says" in str(message) else {}
    if message is not None:
        assert message in refused(tmp_path, text, **options)
    if settled is not None or message is None:
        assert len(read(tmp_path, text, **(settled or {})).values)


@pytest.mark.parametrize("other", ["0,5", "1,23", "-12,3456", "0,123", "1234,567", "1,234e0"])
def test_a_number_that_can_be_read_in_one_way_only_settles_the_decimal_mark(tmp_path: Path, other: str) -> None:
    table = read(tmp_path, f"a;b\n1,234;2\n3;{other}\n")
    np.testing.assert_array_equal(table.values, np.array([[1.234, 2], [3, float(other.replace(",", "."))]], np.float32))
    assert "decimal comma" in table.notes[0]


def test_the_decimal_comma_of_one_column_can_be_said(tmp_path: Path) -> None:
    assert read(tmp_path, "a\n1,5\n2,5\n", delimiter=";").values.tolist() == [[1.5], [2.5]]


def test_what_is_no_number_is_text(tmp_path: Path) -> None:
    table = read(tmp_path, "when,a\n" + "".join(f"2024_{k % 12 + 1:02d},{k}\n" for k in range(40)))
    assert (table.columns, table.skipped) == (("a",), ("when",))


def test_numbers_that_float32_takes_for_one_are_refused(tmp_path: Path) -> None:
    times = "".join(f"{1_700_000_000_000 + 1000 * k},{k}\n" for k in range(50))
    message = refused(tmp_path, "t,a\n" + times)
    assert message.startswith("line 3, column 't': 49 of 49 changes are lost in float32")
    assert "subtract what its numbers have in common" in message
    assert read(tmp_path, "t,a\n" + times, columns=("a",)).values.shape == (50, 1)
    few = "".join(f"{k}\n" for k in range(999)) + "16777216\n16777217\n"
    table = read(tmp_path, "a\n" + few)
    assert "warning: column 'a': 1 of 1000 changes are lost in float32 (first in line 1002)" in table.notes


@pytest.mark.parametrize(
    ("missing", "expected", "note"),
    [
        ("drop", [[1, 2], [5, 6]], "missing: 1 in a, 2 in b; 2 rows dropped"),
        ("hold", [[1, 2], [1, 2], [3, 2], [5, 6]], "missing: 1 in a, 2 in b; held"),
        ("interpolate", [[1, 2], [2, 10 / 3], [3, 14 / 3], [5, 6]], "missing: 1 in a, 2 in b; interpolated"),
    ],
)
def test_missing_values(tmp_path: Path, missing: str, expected: list[list[float]], note: str) -> None:
    table = read(tmp_path, "a,b\n1,2\nNA,\n3,?\n5,6\n", missing=missing, columns=("a", "b"))
    np.testing.assert_array_equal(table.values, np.array(expected, np.float32))
    assert note in table.notes
    assert refused(tmp_path, "a,b\n1,2\nNA,\n3,?\n5,6\n", columns=("a", "b")) == (
        "line 3, column 'a': a missing value (missing: 1 in a, 2 in b); choose what becomes of it with --missing drop, "
        "hold or interpolate"
    )


def test_a_sentinel_is_a_missing_value_when_it_is_said_to_be(tmp_path: Path) -> None:
    text = "a\n1\n-999\n3\n"
    assert read(tmp_path, text).values.tolist() == [[1], [-999], [3]]
    assert read(tmp_path, text, missing="interpolate", missing_values=("-999",)).values.tolist() == [[1], [2], [3]]


@pytest.mark.parametrize(("missing", "side"), [("hold", "before"), ("interpolate", "before")])
def test_no_value_to_take(tmp_path: Path, missing: str, side: str) -> None:
    assert f"line 2, column 'a': a missing value with no value {side} it" in refused(
        tmp_path, "a,b\n,1\n2,3\n4,5\n", missing=missing
    )


@pytest.mark.parametrize(
    ("text", "delimiter"), [("a;b\n1,5;2\n2,5;3\n", None), ("a;b\n1,5;2\n2,5;3\n", ";"), ("a,b\n1,2\n2,3\n", None)]
)
def test_without_the_library(tmp_path: Path, text: str, delimiter: str | None) -> None:
    (tmp_path / "a.csv").write_text(text)
    code = f"""
import sys
sys.modules["clevercsv"] = None
from pathlib import Path
from gatestream.cli.rows import RowsError
from gatestream.cli.rows.options import TableOptions
from gatestream.cli.rows.table import read_table
try:
    print(len(read_table(Path({str(tmp_path / "a.csv")!r}), TableOptions(delimiter={delimiter!r})).values))
except RowsError as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    if ";" in text and delimiter is None:
        assert (
            "needs clevercsv, which is not installed: pip install 'gatestream[tables]', or say it with --deli" in said
        )
    else:
        assert said == "2\n"
