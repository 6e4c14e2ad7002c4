"""`gatestream stream` through servers that are killed and take each other's place: nothing lost, nothing doubled."""

import subprocess
import sys
from pathlib import Path

from tests.support.artifacts import accumulator
from tests.support.process import start
from tests.support.proxy import proxied

ROWS = 60


def test_a_killed_server_leaves_no_trace_in_the_output(tmp_path: Path) -> None:
    model = accumulator(tmp_path / "accumulator.onnx")
    store = f"sqlite:{tmp_path / 'store'}"
    server = start(model, store=store)
    try:
        with proxied(server.port) as proxy:
            # The second address is nobody's: the first one is asked again.
            addresses = f"{proxy.address},127.0.0.1:1"
            with subprocess.Popen(
                [sys.executable, "-m", "gatestream.cli", "stream", addresses, "--input=csv", "--output=jsonl"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            ) as process:
                assert process.stdin is not None
                assert process.stdout is not None
                assert process.stderr is not None
                lines: list[bytes] = []
                for row in range(ROWS):
                    process.stdin.write(f"{row},1\n".encode())
                    process.stdin.flush()
                    if row in (20, 40):
                        # With rows on their way, or just answered.
                        server.kill()
                        proxy.cut()
                        server = start(model, store=store)
                        proxy.target = server.port
                    elif row % 3:
                        lines.append(process.stdout.readline())
                process.stdin.close()
                lines += process.stdout.readlines()
                told = process.stderr.read().decode()
                assert process.wait() == 0, told
        sums = [sum(range(row + 1)) for row in range(ROWS)]
        expected = [f'{{"position": {row}, "y": [{sums[row]}.0, {row + 1}.0]}}\n'.encode() for row in range(ROWS)]
        assert lines == expected, told
        assert told.count(f"connected again, to {addresses.split(',')[0]}") >= 2
    finally:
        server.close()


def test_without_resuming_it_ends(tmp_path: Path) -> None:
    server = start(accumulator(tmp_path / "accumulator.onnx"))
    with subprocess.Popen(
        [sys.executable, "-m", "gatestream.cli", "stream", server.address, "--input=csv", "--no-resume"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"1,1\n")
        process.stdin.flush()
        process.stdout.readline()
        process.stdout.readline()
        server.kill()
        _, told = process.communicate(b"2,2\n")
    assert process.returncode == 1
    assert b"its sessions are closed" in told
