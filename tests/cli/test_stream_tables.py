"""Tables, JSON lines and text through `gatestream stream`: a real server, real files and real pipes."""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gatestream.cli.stream import command
from gatestream.client import connect
from tests.client.artifacts import counter
from tests.support.artifacts import accumulator
from tests.support.process import ServerProcess, serving
from tests.support.wire import PATIENCE


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("artifacts")
    paths = (
        accumulator(folder / "named.onnx", name="named", columns=["wind", "rain"]),
        accumulator(folder / "numbered.onnx", name="numbered", columns=["column2", "column3"]),
        counter(folder / "counter.onnx"),
    )
    with serving(*paths) as running:
        yield running


def stream(server: ServerProcess, *more: object, data: bytes | str = b"", model: str = "named") -> Result:
    """Run it in this process, on a real pipe with data in it."""
    receiver, sender = os.pipe()

    def feed() -> None:
        with contextlib.suppress(BrokenPipeError), os.fdopen(sender, "wb") as end:
            end.write(data.encode() if isinstance(data, str) else data)

    feeding = threading.Thread(target=feed)
    feeding.start()
    try:
        return CliRunner().invoke(command, [server.address, f"/dev/fd/{receiver}", f"--model={model}", *map(str, more)])
    finally:
        os.close(receiver)
        feeding.join()


class Pipe:
    """`gatestream stream` reading from a pipe, to which rows are written one by one."""

    def __init__(self, server: ServerProcess, *more: str, model: str = "named") -> None:
        arguments = [sys.executable, "-m", "gatestream.cli", "stream", server.address, f"--model={model}", *more]
        self._process = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
        )

    def __enter__(self) -> "Pipe":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(data)

    def line(self) -> str:
        """The next line of its output."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().decode()

    def end(self) -> tuple[int, str, str]:
        """Exit status, the rest of the output, and standard error, once no more rows come."""
        out, error = self._process.communicate(timeout=PATIENCE)
        return self._process.returncode, out.decode(), error.decode()


@pytest.mark.parametrize(
    ("head", "rows", "told"),
    [
        ("rain,at,wind\n", ["2,noon,1\n", "4,noon,3\n"], ""),
        ("rain;at;wind\r\n", ["2,0;9:00, or so;1,0\r\n", "4;9:01;3\r\n"], "delimiter semicolon"),
        ("", ["1,0;2,0\r", "3,0;4,0\r"], "decimal comma"),
        ('"wind","the\nnote","rain"\n', ['1,"x\ny",2\n', "3,,4\n"], ""),
    ],
)
def test_a_row_is_answered_before_the_next_is_written(
    server: ServerProcess, head: str, rows: list[str], told: str
) -> None:
    with Pipe(server) as pipe:
        assert pipe.line() == "y_0,y_1\n"
        pipe.write(head.encode() + rows[0].encode())
        assert pipe.line() == "1.0,2.0\n"
        pipe.write(rows[1].encode())
        assert pipe.line() == "4.0,6.0\n"
        status, rest, error = pipe.end()
    assert (status, rest) == (0, "")
    assert told in error
    assert bool(told) == bool(error)


def test_columns_of_a_table_without_a_header(server: ServerProcess, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("2024-01-01,1,2\n2024-01-02,3,4\n")
    done = CliRunner().invoke(command, [server.address, str(path), "--model=numbered"])
    assert (done.exit_code, done.stdout) == (0, "y_0,y_1\n1.0,2.0\n4.0,6.0\n")
    assert stream(server, data="2024-01-01;1,5;2\n", model="numbered").stdout == "y_0,y_1\n1.5,2.0\n"


def test_a_file_is_looked_through_for_its_decimal_mark(server: ServerProcess, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("wind;rain\n1,234;2\n0,5;1\n")
    done = CliRunner().invoke(command, [server.address, str(path), "--model=named"])
    assert (done.exit_code, done.stdout) == (0, "y_0,y_1\n1.234,2.0\n1.734,3.0\n")
    path.write_text("wind;rain\n1,234;2\n5,678;1\n")
    done = CliRunner().invoke(command, [server.address, str(path), "--model=named"])
    assert (done.exit_code, done.stdout) == (1, "y_0,y_1\n")
    assert "line 2, column 'wind': '1,234' may have a decimal comma or a separator between thousands" in done.stderr
    assert "--decimal" in done.stderr


@pytest.mark.parametrize(
    ("options", "text", "answers", "told"),
    [
        (
            ["--missing=drop"],
            "1,2\n,4\n3,NA\n3,4\n",
            "1.0,2.0\n4.0,6.0\n",
            "2 rows with missing values dropped, the first",
        ),
        (["--missing=hold"], "1,2\n,4\n3,NA\n", "1.0,2.0\n2.0,6.0\n5.0,10.0\n", ""),
        (["--missing=hold", "--missing-values=-9"], "1,2\n-9,4\n", "1.0,2.0\n2.0,6.0\n", ""),
        (["--delimiter=tab", "--decimal=,"], "1,0\t2,0\n", "1.0,2.0\n", ""),
        ([], "sep=;\nwind;rain\n1;2\n", "1.0,2.0\n", "read with delimiter semicolon"),
        ([], "wind\train\n1\t2\n", "1.0,2.0\n", "read with delimiter tab"),
        (["--quote='"], "'1','2'\n", "1.0,2.0\n", ""),
        (['--columns=a,"b, c"'], '"b, c",a\n2,1\n', "1.0,2.0\n", ""),
        (["--header", "--columns=2019,2020"], "2020,2019\n2,1\n", "1.0,2.0\n", ""),
        (["--no-header"], "1,2\n", "1.0,2.0\n", ""),
        ([], "wind,rain\n1,2\n,\n,\n", "1.0,2.0\n", "2 rows of empty cells at the end: not read"),
        ([], "700000.01,2\n700000.02,2\n", None, "warning: line 2, column 'wind': 700000.02 and 700000.01"),
    ],
)
def test_options_say_how_a_table_is_read(
    server: ServerProcess, options: list[str], text: str, answers: str | None, told: str
) -> None:
    done = stream(server, *options, data=text)
    assert done.exit_code == 0, done.output
    assert answers is None or done.stdout == "y_0,y_1\n" + answers
    assert told in done.stderr
    assert bool(told) == bool(done.stderr)


@pytest.mark.parametrize(
    ("options", "text", "answered", "message"),
    [
        ([], "1,2\n3,4\n5,x\n7,8\n", 2, "line 3, column 'rain': 'x' is not a number"),
        ([], "1,2\n3,4\n\n5\n7,8\n", 2, "line 4 has 1 cell, but line 1 has 2"),
        (
            [],
            "1,2\n3,\n",
            1,
            "line 2, column 'rain': '' is a missing value; choose what becomes of it with --missing drop",
        ),
        ([], "1,2\n3,4\n1_0,1\n", 2, "line 3, column 'wind': '1_0' is not a number"),
        ([], '1,2\n3,"4\n5,6\n', 1, "line 2, column 2: the quote that opens here is never closed"),
        ([], "1,2\n1e39,2\n", 1, "line 2, column 'wind': '1e39' is not a finite number in float32"),
        (
            ["--delimiter=;"],
            "1;2\n1.5;2\n2,5;3\n",
            2,
            "line 3, column 'wind': '2,5' has a decimal comma, and by line 2 numbers have a",
        ),
        (
            ["--delimiter=;"],
            "wind;rain\n1;2\n1,234;5\n0,5;1\n",
            1,
            "line 3, column 'wind': '1,234' may have a decimal comma or a separ",
        ),
        # The server finds it, in a message with all the rows: the model itself fails on this one.
        ([], "1,2\n3,4\n1e6,0\n7,8\n", 2, "line 3: "),
        (["--input=jsonl"], "[1, 2]\n\n[3, 4]\n[5]\n[7, 8]\n", 2, "line 4: input 'x' of 'named': shape [1] came"),
        (["--input=jsonl"], "[1, 2]\n" + "[" * 100_000 + "\n", 1, "line 2: nested too deeply for a row"),
        (
            ["--input=jsonl"],
            "[1, 2]\n[" + "9" * 5000 + ", 1]\n",
            1,
            "line 2: " + "9" * 57 + "... is not a finite number",
        ),
        (["--input=jsonl"], "[1, 2]\n[1e400, 1]\n", 1, "line 2: 1e400 is not a finite number"),
        (["--input=jsonl"], '[1, 2]\n{"wind": 1, "wind": 2, "rain": 3}\n', 1, "line 2: key 'wind' came more than once"),
    ],
)
def test_all_good_rows_are_answered_before_a_bad_one_is_reported(
    server: ServerProcess, options: list[str], text: str, answered: int, message: str
) -> None:
    done = stream(server, *options, data=text)
    assert done.exit_code == 1
    assert done.stderr.startswith(f"Error: {message}")
    assert done.stderr.count("\n") == 1
    lines = done.stdout.splitlines(keepends=True)[0 if "--input=jsonl" in options else 1 :]
    assert [line.endswith("\n") for line in lines] == [True] * answered


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"1,2\n3,\xff4\n", "line 2: byte 3 (0xff) is not UTF-8; convert it first"),
        (b"1,2\n3,4\0\n", "line 2: byte 4 is NUL, which no text holds"),
        (b"1,2\n" + b"3" * (5 << 20), "line 2: longer than 4,194,304 characters"),
        (b"1,2\n" + b'"' + b"3\n" * 700_000, "line 2: a cell that begins here is longer than 131,072 characters"),
    ],
)
def test_bytes_that_are_no_rows(server: ServerProcess, data: bytes, message: str) -> None:
    done = stream(server, data=data)
    assert (done.exit_code, done.stdout) == (1, "y_0,y_1\n1.0,2.0\n")
    assert done.stderr.startswith(f"Error: {message}")


def test_utf_16_is_named(server: ServerProcess) -> None:
    assert "line 1: the input is UTF-16" in stream(server, data="1,2\n".encode("utf-16")).stderr


@pytest.mark.parametrize(
    ("options", "data", "message"),
    [
        (["--missing=interpolate"], "1,2\n", "--missing interpolate: a stream does not know the value that follows"),
        (["--missing=hold"], "wind,rain\n,2\n", "line 2, column 'wind': a missing value with none before it"),
        (["--unknown=Z", "--input=csv"], "1,2\n", "--unknown is about the characters of text; csv is read"),
        (["--columns=a,a"], "1,2\n", "'a' stands there more than once"),
        (["--delimiter=;", "--decimal=,", "--quote=;"], "1;2\n", "--delimiter and --quote are both ';'"),
        (["--delimiter=ab"], "1;2\n", "'ab' came; one character"),
        (["--delimiter=,", "--decimal=,"], "1,2\n", "--decimal and --delimiter are both ','"),
        ([], "wind,wind\n1,2\n", "line 1: column 'wind' stands in the header more than once"),
        ([], "snow;hail\n1;2\n", "line 1: no header with the columns wind, rain"),
    ],
)
def test_options_that_do_not_fit(server: ServerProcess, options: list[str], data: str, message: str) -> None:
    done = stream(server, *options, data=data)
    assert done.exit_code in (1, 2)
    assert message in done.stderr


def test_a_pipe_needs_no_library(server: ServerProcess) -> None:
    code = "import sys; sys.modules['clevercsv'] = None; from gatestream.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "stream", server.address, "--model=named"],
        input="wind;rain\n1,5;2\n",
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "y_0,y_1\n1.5,2.0\n")


def test_every_token_can_be_stepped_by_name(server: ServerProcess) -> None:
    # Its tokens are B, T, X and <end>.
    assert stream(server, data="T<end><end>B", model="counter").stdout == "TT<end><end>\n"
    with connect(server.address) as gs, gs.session("counter") as session:
        for token in gs.models["counter"].inputs[0].vocabulary:
            session.step(token)
        assert session.run(["<end>", "B"])[-1].tolist() == [2, 1, 1, 2]


def test_a_token_waits_only_where_a_longer_one_may_come(server: ServerProcess) -> None:
    with Pipe(server, "--output=csv", model="counter") as pipe:
        pipe.line()
        pipe.write(b"T")
        assert pipe.line() == "0.0,1.0,0.0,0.0\n"
        pipe.write(b"<en")
        pipe.write(b"d>")
        assert pipe.line() == "0.0,1.0,0.0,1.0\n"
        pipe.write(b"X<e")
        assert pipe.line() == "0.0,1.0,1.0,1.0\n"
        status, rest, error = pipe.end()
    assert (status, rest) == (1, "")
    assert error.startswith(
        "Error: line 1, column 8: '<' is no token of model 'counter'; it has <end> B T X; --unknown"
    )


def test_a_byte_order_mark_is_never_a_token(server: ServerProcess) -> None:
    assert stream(server, data="\ufeffTT\ufeffB", model="counter").stdout == "TTT\n"


def test_unknown_characters_are_substituted(server: ServerProcess) -> None:
    done = stream(server, "--unknown=B", data="TzéB", model="counter")
    assert (done.exit_code, done.stdout) == (0, "TBBB\n")
    refused = stream(server, "--unknown=Q", data="T", model="counter")
    assert refused.stderr == "Error: --unknown: 'Q' is no token of model 'counter'; it has <end> B T X\n"
