"""Commands whose standard input, output or error is closed, full or read by nobody: one line, a known end, no harm.

All as processes of the installed script: what Python does with such descriptors as it starts and ends is part of it.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
import onnx
import pytest
from safetensors import safe_open

from gatestream.cli.outcome import STATUSES
from tests.client.artifacts import counter
from tests.support.artifacts import accumulator
from tests.support.hostile_files import CHECKPOINT
from tests.support.process import ServerProcess, serving, start_under
from tests.support.wire import Stream

SCRIPT = Path(sys.executable).with_name("gatestream")

CLOSED, FULL, GONE = "Bad file descriptor", "No space left on device", "read by nobody"


@dataclass(frozen=True, slots=True)
class Command:
    """One that can be run.

    Attributes:
        arguments: with what `inputs` names; {artifact} and {reber}, as the fixtures; {out}, a folder.
        status: it ends with.
        error: its line ends with that, where it fails.
        prints: to standard output.
        reads: standard input.
        writes: what is in the folder when nothing was in its way.
    """

    arguments: str
    status: int = 0
    error: str = ""
    prints: bool = True
    reads: bool = False
    writes: set[str] = field(default_factory=set)


COMMANDS = {
    "help": Command("--help"),
    "help of a command": Command("stream --help"),
    "train reber": Command(
        "train reber --updates 2 --hidden 2 -o {out}/new.safetensors",
        status=1,
        error="not solved after 2 updates; start over with another --seed or more --updates",
        writes={"new.safetensors", "new.png"},
    ),
    "train series": Command(
        "train series {table} --updates 2 --hidden 2 --streams 2 --steps 5 -o {out}/new.safetensors",
        writes={"new.safetensors", "new.png"},
    ),
    "export": Command("export {checkpoint} -o {out}/new.onnx --report {out}/new.json", writes={"new.onnx", "new.json"}),
    "inspect": Command("inspect {artifact} --svg {out}/new.svg", writes={"new.svg"}),
    "inspect json": Command("inspect {artifact} --json"),
    "serve": Command("serve {missing}", 1, "cannot be read as an ONNX file: No such file or directory", prints=False),
    "serve workers": Command(
        "serve {missing} --workers 2", 1, "cannot be read as an ONNX file: No such file or directory", prints=False
    ),
    "health": Command("health {address}"),
    # The delimiter that was detected is told on standard error.
    "stream": Command("stream {address} --input csv --columns token", reads=True),
    "stream file": Command("stream {address} {rows} --columns token"),
    "demo": Command("demo --address {reber} --symbols 100", 1, "predictions were illegal; there should be none"),
}

ENDS = {
    "stdin closed": (("stdin", CLOSED),),
    "stdout closed": (("stdout", CLOSED),),
    "stderr closed": (("stderr", CLOSED),),
    "all closed": (("stdin", CLOSED), ("stdout", CLOSED), ("stderr", CLOSED)),
    "stdout full": (("stdout", FULL),),
    "stderr full": (("stderr", FULL),),
    "stdout gone": (("stdout", GONE),),
    "stderr gone": (("stderr", GONE),),
}

# One command with every end, and every command and end with some; `make test-hostile` has all of them.
SHORT = {("stream", end) for end in ENDS} | {
    ("help", "stdout gone"),
    # More than a buffer holds.
    ("help of a command", "stdout full"),
    ("train series", "stdout full"),
    ("serve workers", "all closed"),
    ("health", "stdout closed"),
    ("stream file", "stdin closed"),
}

# These take long; all that they do with descriptors is print.
SLOW = {"export": {"stdout gone"}, "train reber": {"stdout closed"}, "train series": {"all closed", "stdout gone"}}
LONG = {(name, end) for name in COMMANDS for end in SLOW.get(name, ENDS)}

# Not about time: an export alone takes a quarter of a minute of the CPU.
SECONDS = 300.0


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, object]]:
    """What stands in the arguments of most commands."""
    folder = tmp_path_factory.mktemp("inputs")
    table, rows = folder / "table.csv", folder / "rows.csv"
    table.write_text("a,b\n" + "".join(f"{n % 7},{n % 5}\n" for n in range(200)))
    rows.write_text("token;level\n0;1\n1;2\n2;3\n")
    with serving(counter(folder / "counter.onnx")) as server:
        yield {
            "address": server.address,
            "table": table,
            "rows": rows,
            "checkpoint": CHECKPOINT,
            "missing": folder / "missing",
        }


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exported, of a model that has learnt nothing."""
    folder = tmp_path_factory.mktemp("artifact")
    checkpoint, artifact = folder / "reber.safetensors", folder / "reber.onnx"
    script("train", "reber", "--updates=2", "--hidden=2", "-o", checkpoint)
    script("export", checkpoint, "-o", artifact)
    return artifact


@pytest.fixture(scope="module")
def reber(artifact: Path) -> Iterator[ServerProcess]:
    with serving(artifact) as server:
        yield server


def script(*arguments: object) -> None:
    subprocess.run([SCRIPT, *map(str, arguments)], check=False, capture_output=True, timeout=SECONDS)


def run(
    arguments: Sequence[str], ends: Sequence[tuple[str, str]], stdin: Path, cwd: Path
) -> subprocess.CompletedProcess[str]:
    """Run the script with some of its descriptors so."""
    numbers = {"stdin": 0, "stdout": 1, "stderr": 2}
    closed = [numbers[name] for name, how in ends if how == CLOSED]
    with stdin.open("rb") as rows, open("/dev/full", "wb") as full:  # noqa: PTH123 (a device)
        reader, writer = os.pipe()
        os.close(reader)
        how: dict[str, int | IO[bytes]] = {"stdin": rows, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        how |= {name: full if end == FULL else writer for name, end in ends if end != CLOSED}
        try:
            return subprocess.run(
                # A shell closes them, as a user's does; it is replaced by the script.
                [
                    "bash",
                    "-c",
                    'exec "$@" ' + " ".join(f"{number}>&-" for number in closed),
                    "bash",
                    SCRIPT,
                    *arguments,
                ],
                stdin=how["stdin"],
                stdout=how["stdout"],
                stderr=how["stderr"],
                cwd=cwd,
                text=True,
                timeout=SECONDS,
                check=False,
                env=os.environ | {"PYTHONWARNINGS": "default"},
            )
        finally:
            os.close(writer)


@pytest.mark.parametrize(("name", "end"), sorted(SHORT))
def test_how_a_command_ends(inputs: dict[str, object], tmp_path: Path, name: str, end: str) -> None:
    check(COMMANDS[name], ENDS[end], inputs, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(3 * SECONDS)
@pytest.mark.parametrize(("name", "end"), sorted(LONG - SHORT))
def test_so_ends_every_other(
    inputs: dict[str, object], artifact: Path, reber: ServerProcess, tmp_path: Path, name: str, end: str
) -> None:
    check(COMMANDS[name], ENDS[end], inputs | {"artifact": artifact, "reber": reber.address}, tmp_path)


def check(command: Command, ends: Sequence[tuple[str, str]], inputs: dict[str, object], out: Path) -> None:
    arguments = command.arguments.format(**inputs, out=out)
    done = run(arguments.split(), ends, Path(str(inputs["rows"])), out)
    said = f"{arguments}\n{done}"
    status, error = command.status, command.error
    how = dict(ends)
    if command.reads and "stdin" in how:
        status, error = 1, f"standard input: {CLOSED}"
    elif command.prints and how.get("stdout") == GONE:
        status, error = 141, ""
    elif command.prints and "stdout" in how:
        status, error = 1, f"standard output: {how['stdout']}"
    assert done.returncode == status, said
    assert f"{status}: " in STATUSES
    if "stderr" not in how:
        assert "Traceback" not in done.stderr, said
        assert "Exception ignored" not in done.stderr, said
        errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
        assert len(errors) == (error != ""), said
        assert not errors or done.stderr.endswith(f"{errors[0]}\n"), said
        assert not errors or errors[0].endswith(error), said
    if "stdout" not in how and status == command.status:
        assert bool(done.stdout) == command.prints, said
    written = {path.name for path in out.iterdir()}
    assert written <= command.writes, said
    assert written == command.writes or status != command.status, said
    for path in out.iterdir():
        is_whole(path)


def is_whole(path: Path) -> None:
    match path.suffix:
        case ".onnx":
            onnx.checker.check_model(onnx.load(path))
        case ".safetensors":
            with safe_open(path, framework="np") as file:
                assert list(file.keys())
        case ".json":
            assert json.loads(path.read_text())["passed"]
        case ".svg":
            assert path.read_text().rstrip().endswith("</svg>")
        case ".png":
            assert path.read_bytes().endswith(b"IEND\xaeB`\x82")


@pytest.mark.slow
@pytest.mark.timeout(3 * SECONDS)
@pytest.mark.parametrize("name", ["train series", "export", "inspect"])
def test_an_output_for_which_there_is_no_room(
    inputs: dict[str, object], artifact: Path, tmp_path: Path, name: str
) -> None:
    arguments = COMMANDS[name].arguments.format(**inputs, artifact=artifact, out=tmp_path).split()
    old = {}
    if name == "inspect":
        script(*arguments)
        old = {path: path.read_bytes() for path in tmp_path.iterdir()}
        assert len(old) == 1
    # As of a disk that is full: no file gets longer than 1 KiB.
    done = subprocess.run(
        ["bash", "-c", 'ulimit -f 1; exec "$@"', "bash", SCRIPT, *arguments],
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 1, done
    assert done.stderr.endswith(": File too large\n")
    assert done.stderr.startswith(f"Error: {tmp_path}/new.")
    assert done.stderr.count("\n") == 1
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == old


@pytest.mark.parametrize("workers", [1, 2])
def test_a_server_with_none_of_them_serves(tmp_path: Path, workers: int) -> None:
    # A connection, and what a worker keeps open, gets none of the free places.
    without = ["bash", "-c", 'exec "$@" <&- >&- 2>&-', "bash"]
    server = start_under(without, accumulator(tmp_path / "model.onnx"), workers=workers)
    try:
        with Stream(server.address) as stream:
            stream.opened(0)
            np.testing.assert_array_equal(stream.stepped(0, [[1, 2]]), [[1, 2]])
        assert server.terminate() == 0
        assert server.log.read_bytes() == b""
    finally:
        server.close()
