"""Many more sessions than slots: memory, what a resident one pays for them, and how long one waits for its slot.

`python -m benchmarks.targets.parked COUNT` has so many be opened by clients, through the server, instead of being put
into its store; a million take some ten minutes.
"""

import argparse
import asyncio
import time
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks import models
from benchmarks.harness.bench import FULL, Bench, Case
from benchmarks.harness.generator import build
from benchmarks.harness.processes import Gatestream, Instrument
from benchmarks.harness.report import Section, Verdict
from benchmarks.harness.statistics import Spread, column, ratios, summarise
from benchmarks.harness.table import render_section
from benchmarks.models import SHAPES, Form, artifact
from gatestream.client import connect
from gatestream.server.backend.artifact import Artifact
from gatestream.server.core.kept import meaning
from gatestream.server.durability.checkpoints import Checkpoint, Key
from gatestream.server.durability.database import Database
from gatestream.server.durability.rules import Record
from gatestream.server.durability.sqlite import SqliteStore
from gatestream.server.durability.sqlite_rows import keep
from gatestream.server.durability.transactions import Transactions, Use

MODEL: Final = "lstm128"
FORM: Final[Form] = "fused"
SLOTS: Final = 10_000
# So few that all keep their slots; and so many that one which is stepped in its turn has lost it.
FEW: Final = 9_000
HELD: Final = 19_000
AT_ONCE: Final = 5_000
# Of those that no stream holds.
OPENED: Final = 200
RESIDENT_BOUND: Final = 1.1
RESTORE_BOUND_MS: Final = 5.0
MEMORY_BOUND_MIB: Final = 2048
PRUNE_SECONDS: Final = 5.0


def measure(bench: Bench, section: Section) -> None:
    # A crowd is of sessions that clients open.
    left = 10 * bench.pace.crowd
    file = bench.folder() / "sessions.db"
    section.notes.append(asyncio.run(_park(file, left)))
    _beside(bench, section, _server(bench, file, left), left)
    _forgotten(bench, section, file, left)


def _server(bench: Bench, file: Path, left: int, **settings: Any) -> Gatestream:
    room: dict[str, Any] = {"sessions": SLOTS, "sessions_per_stream": HELD, "parked_sessions": 2 * (left + HELD)}
    return bench.gatestream(MODEL, FORM, store=f"sqlite:{file}", **room, **settings)


def _beside(bench: Bench, section: Section, server: Gatestream, left: int) -> None:
    """What others notice of so many that are parked in a server's store."""
    parked = f"{left:,} parked"
    alone = _server(bench, bench.folder() / "sessions.db", 0)
    cases: dict[str, Case] = {}
    memory: dict[str, float] = {}
    loads = [
        (name, each, _held(bench, each, held))
        for name, each, held in (("none parked", alone, FEW), (parked, server, HELD))
    ]
    for name, each, in_turn in loads:
        in_turn.finish()
        memory[name] = each.resident_bytes() / 2**20
        cases[f"resident, {name}"] = bench.closed(bench.load(each, MODEL, keep=True))
        cases[f"in turn, {name}"] = bench.closed(in_turn)
    windows = bench.interleave(cases, bench.pace.sweeps)
    section.contenders |= {name: summarise(windows[name]) for name in cases}
    with_them, without = (column(windows[f"resident, {name}"], "p50_us") for name in (parked, "none parked"))
    restores = Spread.of([each / 1e3 for each in column(windows[f"in turn, {parked}"], "p50_us")])
    section.verdicts += [
        Verdict(
            f"{parked}: p50 of a resident session over none parked", ratios(with_them, without), RESIDENT_BOUND, True
        ),
        Verdict(f"{parked}: p50 of a step without a slot", restores, RESTORE_BOUND_MS, at_most=True, unit="ms"),
        Verdict(f"{parked}: memory", Spread.of([memory[parked]]), MEMORY_BOUND_MIB, at_most=True, unit="MiB"),
    ]
    slowest = Spread.of([each / 1e3 for each in column(windows[f"in turn, {parked}"], "p99_us")])
    section.notes.append(
        f"Parked: {left:,} that no stream holds and {HELD - SLOTS:,} that one does, beside {SLOTS:,} resident. In "
        f"turn: {HELD:,} sessions one after another, so that the next has lost its slot; p99 {slowest} ms. Memory "
        f"with {FEW:,} sessions and none parked: {memory['none parked']:.0f} MiB."
    )


def _held(bench: Bench, server: Gatestream, count: int) -> Instrument:
    """Load that steps so many sessions of a stream one after another, and is opening them."""
    load = bench.load(server, MODEL, blocks=count, keep=True)
    load.begin_count(1)
    return load


def _forgotten(bench: Bench, section: Section, file: Path, left: int) -> None:
    """What others notice while all that are parked are forgotten, and before that how long some of these wait."""
    server = _server(bench, file, left)
    names = [_name(k) for k in np.random.default_rng(1).choice(left, OPENED, replace=False)]
    opened = _opened(server, names, "resume")
    server.stop()
    forgetting = _server(bench, file, left, park_timeout=0.001)
    until = time.monotonic() + PRUNE_SECONDS
    resident = bench.load(forgetting, MODEL, keep=True)
    windows, created = [], []
    while time.monotonic() < until:
        windows.append(resident.measure(0.0, bench.pace.seconds))
        created += _opened(forgetting, [f"new-{time.monotonic_ns()}-{k}" for k in range(20)], "create")
    section.notes.append(
        f"An Open of a parked session by its id and a step, by the Python client: {_percentiles(opened)} ms. While all "
        f"are forgotten: a resident session's step p50 {Spread.of(column(windows, 'p50_us'))} us, a new session's Open "
        f"and step {_percentiles(created)} ms."
    )


def _opened(server: Gatestream, names: list[str], mode: Any) -> list[float]:
    """Milliseconds of an Open and a step of each."""
    times = []
    row = np.zeros(SHAPES[MODEL].inputs, np.float32)
    with connect(f"127.0.0.1:{server.port}") as client:
        for name in names:
            began = time.perf_counter()
            client.session(MODEL, id=name, mode=mode).step(row)
            times.append(1e3 * (time.perf_counter() - began))
    return times


def _percentiles(times: list[float]) -> str:
    return ", ".join(f"p{q} {np.percentile(times, q):.1f}" for q in (50, 99))


async def _park(path: Path, count: int) -> str:
    """Put so many sessions into a file; what that and their place took."""
    found = Artifact.load(artifact(MODEL, FORM))
    means, state = meaning(found.layout, found.spec.version), bytes(found.layout.state_bytes)
    record = Record(0, "", means, (Checkpoint(0, 0, state),), time.time())

    def put(start: int, use: Use) -> None:
        for k in range(start, min(start + AT_ONCE, count)):
            keep(use, Key("", MODEL, _name(k)), None, record)

    # As the store would, without a call and an answer for each.
    transactions = Transactions(Database(path, True, "NORMAL"))
    began = time.perf_counter()
    for start in range(0, count, AT_ONCE):
        await transactions.do(partial(put, start))
    made = time.perf_counter() - began
    transactions.stop()
    store = SqliteStore(path)
    began = time.perf_counter()
    page = await store.page(None, None, Key("", MODEL, _name(count // 2)), 500)
    paged = 1e3 * (time.perf_counter() - began)
    assert len(page) == 500
    await store.close_store("")
    size = sum(each.stat().st_size for each in path.parent.glob(f"{path.name}*")) / 2**20
    return (
        f"{count:,} parked in SQLite: {size:,.0f} MiB, put there at {count / made:,.0f} a second. A page of 500 in the "
        f"middle: {paged:.1f} ms."
    )


def _name(number: int) -> str:
    return f"session-{number:08}"


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.targets.parked", description=__doc__)
    parser.add_argument("count", type=int)
    left = parser.parse_args().count
    build()
    models.prepare()
    section = Section("parked", 0, f"{left:,} sessions opened by clients", "")
    with Bench(FULL, section.key) as bench:
        server = _server(bench, bench.folder() / "sessions.db", left)
        began = time.monotonic()
        for begin in range(0, left, AT_ONCE):
            load = bench.load(server, MODEL, idle=min(AT_ONCE, left - begin) - 1, keep=True)
            load.count(1)
            load.close()
        section.notes.append(f"Opened at {left / (time.monotonic() - began):,.0f} a second, on streams that ended.")
        _beside(bench, section, server, left)
    print(render_section(section))


if __name__ == "__main__":
    _main()
