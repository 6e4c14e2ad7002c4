"""How long sessions wait for a server that was killed, once another one serves on its store."""

from typing import Any, Final

from benchmarks.harness.bench import FULL, Bench
from benchmarks.harness.processes import free_port
from benchmarks.harness.report import Section, Verdict
from benchmarks.harness.statistics import Spread
from benchmarks.models import Form

MODEL: Final = "lstm128"
FORM: Final[Form] = "fused"
SESSIONS: Final = 1_000
BOUND_SECONDS: Final = 2.0


def measure(bench: Bench, section: Section) -> None:
    store = f"sqlite:{bench.folder() / 'sessions.db'}"
    settings: dict[str, Any] = {"store": store, "listen": f"127.0.0.1:{free_port()}"}
    server = bench.gatestream(MODEL, FORM, **settings)
    steppers = bench.steppers(server, MODEL, SESSIONS)
    steppers.begin("")
    steppers.finish()
    waits = []
    for _ in range(3 if bench.pace.repeats == FULL.repeats else 2):
        server.stop()
        server = bench.gatestream(MODEL, FORM, **settings)
        steppers.begin("")
        waits.append(steppers.finish()["seconds"])
    claim = f"{SESSIONS:,} sessions of a client, from the readiness of the next server until all are answered"
    section.verdicts.append(Verdict(claim, Spread.of(waits), BOUND_SECONDS, at_most=True, unit="s"))
