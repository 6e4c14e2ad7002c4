"""Target 8: from the start of the process to the first answer."""

import socket
import subprocess
import sys
import time
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.harness.bench import Bench
from benchmarks.harness.processes import ROOT, ContenderError, Process, free_port
from benchmarks.harness.report import Section, Verdict
from benchmarks.harness.statistics import Figures, Spread, column, summarise
from benchmarks.models import artifact

MODEL = "reber"
PATIENCE_SECONDS = 30.0
_IMPORT = "import time; t = time.perf_counter(); import gatestream.client; print(time.perf_counter() - t)"


def measure(bench: Bench) -> Section:
    section = Section(
        "start",
        8,
        "Starting",
        "`gatestream serve` with a model of the reference model's shape (hidden 32), from the start of the process "
        "until its health is SERVING; `import gatestream.client` in a fresh interpreter. Files in the page cache.",
    )
    path = artifact(MODEL, "fused")

    def serve() -> Figures:
        port = free_port()
        began = time.perf_counter()
        command = [sys.executable, "-m", "gatestream.cli", "serve", str(path)]
        with Process([*command, f"--listen=127.0.0.1:{port}", "--provider=cpu"], talks=False) as process:
            _await_serving(process, port)
            return {"seconds": time.perf_counter() - began}

    def import_client() -> Figures:
        command = [sys.executable, "-c", _IMPORT]
        return {"seconds": float(subprocess.run(command, check=True, capture_output=True, cwd=ROOT).stdout)}

    cases = {"gatestream serve": serve, "import gatestream.client": import_client}
    windows = bench.interleave(cases)
    section.contenders = {name: summarise(windows[name]) for name in cases}
    for name, claim, bound in (
        ("gatestream serve", "until SERVING", 1.5),
        ("import gatestream.client", "import of the client", 0.3),
    ):
        measured = Spread.of(column(windows[name], "seconds"))
        section.verdicts.append(Verdict(claim, measured, bound, at_most=True, unit="s"))
    return section


def _await_serving(process: Process, port: int) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and process.running:
        # A bare connect first: a channel that finds nobody waits a second before it tries again.
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                time.sleep(0.005)
                continue
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            while time.monotonic() < deadline:
                answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_SECONDS)
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return
                time.sleep(0.005)
    raise ContenderError(str(process.failure("was not SERVING in time")))
