"""`gatestream stream` as a process, against a real server."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from gatestream.cli.stream import command
from tests.client.artifacts import counter
from tests.support.any_models import two_of_each, with_constants
from tests.support.artifacts import accumulator, whole_numbers
from tests.support.lstm import Lstm
from tests.support.process import ServerProcess, serving
from tests.support.tls import Files
from tests.support.wire import PATIENCE


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("artifacts")
    paths = (
        accumulator(folder / "accumulator.onnx"),
        Lstm.random().save(folder / "lstm.onnx"),
        counter(folder / "counter.onnx"),
        two_of_each(folder / "two.onnx"),
        with_constants(folder / "speaker.onnx"),
    )
    with serving(*paths) as running:
        yield running


def arguments(address: str, *more: object) -> list[str]:
    return [sys.executable, "-m", "gatestream.cli", "stream", address, *map(str, more)]


def stream(server: ServerProcess, *more: object, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments(server.address, *more), input=text, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


def answered(server: ServerProcess, *more: object, text: str = "") -> str:
    done = stream(server, *more, text=text)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def refused(server: ServerProcess, *more: object) -> str:
    result = CliRunner().invoke(command, [server.address, *map(str, more)])
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr.removeprefix("Error: ").removesuffix("\n")


def test_numbers_without_a_header(server: ServerProcess) -> None:
    assert answered(server, "--model=accumulator", text="1,2\n\n0.5, 3\n") == "y_0,y_1\n1.0,2.0\n1.5,5.0\n"


def test_columns_by_name(server: ServerProcess, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('\ufefftime,"wind",rain\n9:00,1,10\n9:01,2,20')
    assert answered(server, path, "--model=accumulator", "--columns=rain,wind") == "y_0,y_1\n10.0,1.0\n30.0,3.0\n"


def test_a_model_of_several_inputs(server: ServerProcess) -> None:
    rows = '{"values": [1, 2, 3], "take": true}\n{"values": [4, 5, 6], "take": 0}\n'
    lines = answered(server, "--model=two", "--input=jsonl", text=rows).splitlines()
    assert [json.loads(line) for line in lines] == [
        {"position": 0, "total": [1.0, 2.0, 3.0], "count": 1},
        {"position": 1, "total": [1.0, 2.0, 3.0], "count": 1},
    ]
    assert (
        answered(server, "--model=two", "--input=jsonl", "--output=csv", text=rows).splitlines()[1] == "1.0,2.0,3.0,1"
    )
    assert "no plain list of numbers, so csv cannot hold it; use jsonl" in refused(server, "--model=two")


def test_a_constant(server: ServerProcess, tmp_path: Path) -> None:
    np.save(tmp_path / "speaker.npy", np.ones((2, 3), np.float32))
    chosen = "--model=speaker", f"--constant=speaker={tmp_path / 'speaker.npy'}", "--constant=rate=[1, 2, 3]"
    assert answered(server, *chosen, text="1,1,1\n") == "y_0,y_1,y_2\n3.0,4.0,5.0\n"
    assert "constant 'speaker' was not given" in refused(server, "--model=speaker")
    assert "constant 'voice' of 'speaker' came; it has 'speaker', 'rate'" in refused(
        server, "--model=speaker", "--constant=voice=1"
    )
    for wrong in ("speaker", "=1", "speaker=one", "speaker=[1", f"speaker={tmp_path / 'none.npy'}"):
        result = CliRunner().invoke(command, [server.address, f"--constant={wrong}"])
        assert result.exit_code in (1, 2), wrong
        assert "--constant" in result.stderr or "none.npy" in result.stderr


def test_json_lines(server: ServerProcess, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('[1, 2]\n{"x": [0.1, 3]}\n{"a": 1, "b": 1, "other": null}\n')
    lines = answered(server, path, "--model=accumulator", "--columns=a,b").splitlines()
    assert [json.loads(line) for line in lines] == [
        {"position": 0, "y": [1.0, 2.0]},
        {"position": 1, "y": [1.1, 5.0]},
        {"position": 2, "y": [2.1, 6.0]},
    ]


def test_gates(server: ServerProcess) -> None:
    xs = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
    ys, gates = Lstm.random().run(xs)
    text = "".join(f"{a},{b},{c}\n" for a, b, c in xs.tolist())
    lines = answered(server, "--model=lstm", "--gates", "--output=jsonl", text=text).splitlines()
    for t, line in enumerate(map(json.loads, lines)):
        np.testing.assert_allclose(line["y"], ys[t], atol=1e-5)
        assert list(line["gates"]) == ["input", "forget", "candidate", "output"]
        np.testing.assert_allclose(line["gates"]["forget"], [gates["f"][t]], atol=1e-5)
    header, *rows = answered(server, "--model=lstm", "--gates", text=text).splitlines()
    names = header.split(",")
    assert names[:5] == ["y_0", "y_1", "y_2", "y_3", "input_0_0"]
    assert names[-1] == "output_0_3"
    np.testing.assert_allclose([float(each) for each in rows[-1].split(",")[4:8]], gates["i"][4], atol=1e-5)


def test_characters(server: ServerProcess) -> None:
    # The counter ranks highest what came most often so far.
    assert answered(server, "--model=counter", text="TTB\r\nBB\n\nXX") == "TTT\nBB\n\nBB\n"


def test_tokens_as_numbers_names_and_table(server: ServerProcess, tmp_path: Path) -> None:
    path = tmp_path / "tokens.csv"
    path.write_text("token\nB\n3\n<end>\n")
    out = answered(server, path, "--model=counter")
    assert out == "B,T,X,<end>\n1.0,0.0,0.0,0.0\n1.0,0.0,0.0,1.0\n1.0,0.0,0.0,2.0\n"
    out = answered(server, "--model=counter", "--input=jsonl", text='"T"\n0\n')
    assert [json.loads(line)["y"] for line in out.splitlines()] == [[0, 1, 0, 0], [1, 1, 0, 0]]


def test_a_long_file(server: ServerProcess, tmp_path: Path) -> None:
    xs = whole_numbers(np.random.default_rng(2), 20_000)
    path = tmp_path / "rows.csv"
    np.savetxt(path, xs, delimiter=",", fmt="%d")
    out = answered(server, path, "--model=accumulator")
    ys = np.array([line.split(",") for line in out.splitlines()[1:]], float)
    np.testing.assert_array_equal(ys, np.cumsum(xs, axis=0))


@contextmanager
def running(server: ServerProcess, *more: object, **settings: Any) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        arguments(server.address, *more),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        **settings,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def write(process: subprocess.Popen[bytes], data: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(data)


def read(process: subprocess.Popen[bytes], size: int) -> bytes:
    """So many bytes of the output, as they come."""
    assert process.stdout is not None
    data = b""
    while len(data) < size:
        piece = os.read(process.stdout.fileno(), size - len(data))
        assert piece, data
        data += piece
    return data


def test_each_row_is_answered_as_it_comes(server: ServerProcess) -> None:
    with running(server, "--model=accumulator") as process:
        assert read(process, 8) == b"y_0,y_1\n"
        write(process, b"1,2\n3,")
        assert read(process, 8) == b"1.0,2.0\n"
        write(process, b"4\n")
        assert read(process, 8) == b"4.0,6.0\n"
    with running(server, "--model=counter") as process:
        for character in b"TTX":
            write(process, bytes([character]))
            assert read(process, 1) == b"T"


def test_with_a_client_certificate(tmp_path: Path) -> None:
    files = Files(tmp_path)
    chain, key = files.issue("server")
    shown, its_key = files.issue("client")
    path = accumulator(tmp_path / "accumulator.onnx")
    with serving(path, tls_cert=chain, tls_key=key, tls_client_ca=files.ca) as guarded:
        done = stream(guarded, f"--tls-ca={files.ca}", f"--tls-cert={shown}", f"--tls-key={its_key}", text="1,2\n3,4\n")
        assert (done.returncode, done.stdout, done.stderr) == (0, "y_0,y_1\n1.0,2.0\n4.0,6.0\n", "")
        done = stream(guarded, f"--tls-ca={files.ca}", "--timeout=2", text="1,2\n")
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert "both sides use TLS" in done.stderr


def test_a_file_that_grows(server: ServerProcess, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("1,2\n")
    with (
        subprocess.Popen(["tail", "-n", "+1", "-f", path], stdout=subprocess.PIPE) as tail,
        subprocess.Popen(
            arguments(server.address, "--model=accumulator"), stdin=tail.stdout, stdout=subprocess.PIPE
        ) as process,
    ):
        try:
            assert read(process, 16) == b"y_0,y_1\n1.0,2.0\n"
            with path.open("a") as file:
                file.write("3,4\n")
            assert read(process, 8) == b"4.0,6.0\n"
        finally:
            tail.kill()
        assert process.wait(PATIENCE) == 0


def test_interrupted(server: ServerProcess) -> None:
    with running(server, "--model=accumulator") as process:
        write(process, b"1,2\n")
        read(process, 16)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
        assert process.stderr is not None
        assert process.stderr.read() == b"\nError: interrupted\n"


def test_a_reader_that_leaves(server: ServerProcess) -> None:
    with running(server, "--model=accumulator") as process:
        read(process, 8)
        assert process.stdout is not None
        process.stdout.close()
        write(process, b"1,2\n")
        assert process.wait(PATIENCE) == 141
        assert process.stderr is not None
        assert process.stderr.read() == b""


@pytest.mark.parametrize(
    ("options", "text", "message"),
    [
        (["--model=accumulator"], "1,2\n3,x\n", "line 2, column 'column2': 'x' is not a number"),
        (["--model=accumulator"], "1,2\n\nnan,1\n", "line 3, column 'column1': 'nan' is a missing value; choose"),
        (["--model=accumulator"], "1,2\n3\n", "line 2 has 1 cell, but line 1 has 2"),
        (["--model=accumulator"], "a,b,c\n", "line 1: 3 columns came, and input 'x' takes 2 numbers without names"),
        (["--model=accumulator", "--columns=a,z"], "a,b\n1,2\n", "line 1: no header with the columns a, z"),
        (["--model=accumulator", "--columns=a"], "", "1 columns were named; input 'x' has 2"),
        (["--model=accumulator", "--input=jsonl"], "[1, 2]\n[1, 2\n", "line 2: column 6: not JSON"),
        (["--model=accumulator", "--input=jsonl"], "[1, NaN]\n", "line 1: NaN is not a finite number"),
        (
            ["--model=accumulator", "--input=jsonl"],
            "[1, 2]\n[1, 2, 3]\n",
            "line 2: input 'x' of 'accumulator': shape [3]",
        ),
        (["--model=accumulator", "--input=jsonl"], '{"a": 1}\n', "line 1: keys a came; x were expected"),
        (["--model=accumulator", "--input=text"], "1", "model 'accumulator' has no vocabulary"),
        (["--model=accumulator", "--output=text"], "1,2\n", "model 'accumulator' answers with numbers"),
        (["--model=counter", "--gates"], "B", "shows none"),
        (["--model=counter"], "BT\nTyB", "line 2, column 2: 'y' is no token of model 'counter'; it has <end> B T X"),
        (["--model=counter", "--input=csv"], "B\nQ\n", "line 2, column 'column1': 'Q' is no token of model 'counter'"),
        (["--model=counter", "--input=jsonl"], '"B"\n"Q"\n', "line 2: input 'x' of 'counter': 'Q' (str) came"),
        (["--model=counter", "--input=csv"], "1\n9\n", "line 2: input 'x' of 'counter': 9 came; 0 to 3"),
        (["--model=lstm", "--gates", "--output=text"], "", "model 'lstm' answers with numbers"),
        ([], "", "the server has 5 models; name one of"),
        (["--model=accumulator", "--tls-ca=/no/such/file"], "", "--tls-ca: /no/such/file cannot be read: No such file"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    server: ServerProcess, tmp_path: Path, options: list[str], text: str, message: str
) -> None:
    path = tmp_path / "rows"
    path.write_text(text)
    assert message in refused(server, path, *options)


def test_what_came_before_a_bad_row_is_answered(server: ServerProcess) -> None:
    done = stream(server, "--model=accumulator", text="1,2\n3,4\nx,y\n")
    assert done.returncode == 1
    assert done.stdout == "y_0,y_1\n1.0,2.0\n4.0,6.0\n"


def test_bytes_that_are_no_text(server: ServerProcess, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"1,2\n\xff\xfe\n")
    assert "line 2: byte 1 (0xff) is not UTF-8" in refused(server, path, "--model=accumulator")


def test_no_file(server: ServerProcess) -> None:
    message = refused(server, "/no/such/file.csv", "--model=accumulator")
    assert message == "/no/such/file.csv: No such file or directory"


def test_no_server() -> None:
    result = CliRunner().invoke(command, ["127.0.0.1:1"])
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: no answer from 127.0.0.1:1: ")
    assert result.stderr.count("\n") == 1


def test_a_server_that_goes(tmp_path: Path) -> None:
    with (
        serving(accumulator(tmp_path / "accumulator.onnx"), drain_seconds=0) as going,
        running(going, "--model=accumulator") as process,
    ):
        read(process, 8)
        going.terminate()
        write(process, b"1,2\n")
        assert process.wait(PATIENCE) == 1
        assert process.stderr is not None
        message = process.stderr.read().decode()
    assert message.startswith("Error: ")
    assert message.count("\n") == 1
    assert "stopping" in message
