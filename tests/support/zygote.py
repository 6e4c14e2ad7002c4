"""A process that has imported what commands import, and runs each command in a fork of itself.

A command costs some milliseconds so, and has descriptors, signals and an end of its own as in a shell.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

SERVE = ("gatestream.cli.serve", "gatestream.server.app", "onnxruntime")
"""What `gatestream serve` imports."""

EVERYTHING = (
    *SERVE, "gatestream.cli.train", "gatestream.cli.export", "gatestream.cli.inspect", "gatestream.cli.stream",
    "gatestream.cli.health", "gatestream.cli.demo", "gatestream.cli.rows", "gatestream.export.exporter",
    "gatestream.export.drawing.inspection", "gatestream.model.checkpoint", "gatestream.model.training",
    "gatestream.model.curve",
)  # fmt: skip
"""What any command imports."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended; `status` None: it did not, within its time, and was killed."""

    status: int | None
    out: str
    err: str


class Zygote:
    """The process.

    Args:
        folder: where commands run, and their output is kept meanwhile.
        imports: the modules that it imports first.
    """

    def __init__(self, folder: Path, imports: Sequence[str] = EVERYTHING) -> None:
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.zygote", *imports],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONWARNINGS": "default"},
        )

    def run(self, arguments: Sequence[str], seconds: float = 60.0) -> Ended:
        """Run a command."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        task = {"arguments": [os.fsencode(each).hex() for each in arguments], "folder": str(self._folder)}
        self._process.stdin.write(json.dumps(task | {"seconds": seconds}) + "\n")
        self._process.stdin.flush()
        return Ended(**json.loads(self._process.stdout.readline()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.__exit__(kind, error, at)


def _main() -> None:
    import gc
    import importlib

    from gatestream.server.process.grpc_poller import read_in_queue
    from gatestream.server.process.tuning import silence_grpc

    # As `serve` does before it imports gRPC, which the others do here.
    silence_grpc()
    read_in_queue()
    for name in sys.argv[1:]:
        importlib.import_module(name)
    gc.freeze()
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        answers.write(json.dumps(_one(json.loads(line))) + "\n")
        answers.flush()


def _one(task: dict[str, Any]) -> dict[str, Any]:
    out, err = (Path(task["folder"], f".{name}") for name in ("out", "err"))
    child = os.fork()
    if child == 0:
        os.chdir(task["folder"])
        for descriptor, path, flags in ((0, os.devnull, os.O_RDONLY), (1, out, os.O_WRONLY), (2, err, os.O_WRONLY)):
            os.dup2(os.open(path, flags | (os.O_CREAT | os.O_TRUNC if flags else 0)), descriptor)
        code = 70
        try:
            from gatestream.cli.main import main

            main([os.fsdecode(bytes.fromhex(each)) for each in task["arguments"]], prog_name="gatestream")
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        finally:
            os._exit(code)
    status = _wait(child, time.monotonic() + task["seconds"])
    texts = [path.read_bytes().decode(errors="backslashreplace") for path in (out, err)]
    for path in (out, err):
        path.unlink()
    return {"status": status, "out": texts[0], "err": texts[1]}


def _wait(child: int, deadline: float) -> int | None:
    while time.monotonic() < deadline:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


if __name__ == "__main__":
    _main()
