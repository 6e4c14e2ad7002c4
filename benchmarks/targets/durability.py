"""What it costs that sessions survive: checkpoints behind the steps, answers that wait for them, and coming back."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks.harness.bench import Bench, Case
from benchmarks.harness.processes import Gatestream, Instrument
from benchmarks.harness.report import Section, Verdict
from benchmarks.harness.statistics import Figures, Spread, column, ratios, summarise
from benchmarks.models import Form
from benchmarks.targets import coming_back, parked
from benchmarks.targets.commits import Commits

MODEL: Final = "lstm128"
FORM: Final[Form] = "fused"
LOADS: Final[dict[str, dict[str, Any]]] = {
    "512 packed": {"sessions": 512},
    "one session": {},
    "64 streams": {"streams": 64},
    "8 sessions, chunks of 64": {"sessions": 8, "steps": 64},
}
# Long enough for a checkpoint or two: those of 512 sessions come some times a second.
SECONDS: Final = 0.5
NEIGHBOUR_SECONDS: Final = 0.8
STEPS_BOUND: Final = 0.93
P99_BOUND: Final = 1.2
BUSY: Final = 10_000
PACKED: Final = 500
# A checkpoint of so many comes every two seconds.
BUSY_SECONDS: Final = 7.0
ROUND_BOUND_MS: Final = 250.0
HOLD_BOUND_MS: Final = 5.0


def measure(bench: Bench) -> Section:
    section = Section(
        "durability",
        0,
        "Sessions that survive",
        "Hidden 128, fused, sessions of 1 KiB that outlive their streams (docs/sessions.md). off: `--durability off`; "
        "memory, sqlite: their stores, checkpoints behind the steps; before-answer: SQLite, synchronous=FULL. commit: "
        "a transaction of such a store in a process of its own, of as many sessions. Neighbour: one session that steps "
        "without a pause beside 512 kept ones packed, itself kept or not.",
    )
    parts: tuple[Callable[[Bench, Section], None], ...] = (
        _steps,
        _neighbours,
        _all_at_once,
        _before_answer,
        coming_back.measure,
        parked.measure,
    )
    for part in parts:
        with Bench(bench.pace, section.key) as own:
            part(own, section)
    return section


def _servers(bench: Bench, *stores: str) -> dict[str, Gatestream]:
    settings: dict[str, dict[str, Any]] = {
        "off": {"durability": "off"},
        "memory": {"store": "memory"},
        "sqlite": {"store": f"sqlite:{bench.folder() / 'sessions.db'}"},
    }
    return {store: bench.gatestream(MODEL, FORM, **settings[store]) for store in stores}


def _steps(bench: Bench, section: Section) -> None:
    servers = _servers(bench, "off", "memory", "sqlite")
    cases: dict[str, Case] = {
        f"{load}, {store}": bench.closed(bench.load(server, MODEL, keep=True, **options), SECONDS)
        for load, options in LOADS.items()
        for store, server in servers.items()
    }
    windows = bench.interleave(cases, bench.pace.sweeps)
    section.contenders |= {name: summarise(windows[name]) for name in cases}

    def over_off(load: str, store: str, figure: str) -> Spread:
        return ratios(column(windows[f"{load}, {store}"], figure), column(windows[f"{load}, off"], figure))

    for load in LOADS:
        claim = f"{load}: steps/s with SQLite over off"
        section.verdicts.append(Verdict(claim, over_off(load, "sqlite", "steps_per_s"), STEPS_BOUND, at_most=False))
    for store, figure, what in (
        ("memory", "steps_per_s", "Steps/s with the store in memory"),
        ("sqlite", "server_cpu_us", "Server CPU a message with SQLite"),
    ):
        found = "; ".join(f"{load} {over_off(load, store, figure)}" for load in LOADS)
        section.notes.append(f"{what} over off: {found}.")


def _neighbours(bench: Bench, section: Section) -> None:
    cases: dict[str, Case] = {}
    kinds: dict[str, dict[str, Any]] = {"neighbour": {}, "kept neighbour": {"keep": True}}
    for store, server in _servers(bench, "off", "sqlite").items():
        crowd = bench.load(server, MODEL, sessions=512, keep=True)
        for kind, options in kinds.items():
            cases[f"{kind}, {store}"] = partial(_beside, bench, crowd, bench.load(server, MODEL, **options))
    windows = bench.interleave(cases, bench.pace.sweeps)
    section.contenders |= {name: summarise(windows[name]) for name in cases}
    for kind in kinds:
        with_sqlite, off = (column(windows[f"{kind}, {store}"], "p99_us") for store in ("sqlite", "off"))
        claim = f"{kind}: p99 with SQLite over off"
        section.verdicts.append(Verdict(claim, ratios(with_sqlite, off), P99_BOUND, at_most=True))


def _beside(bench: Bench, crowd: Instrument, neighbour: Instrument) -> Figures:
    crowd.begin(f"0 {NEIGHBOUR_SECONDS + 3 * bench.pace.warm_up}")
    figures = bench.closed(neighbour, NEIGHBOUR_SECONDS)()
    crowd.finish()
    return figures


def _all_at_once(bench: Bench, section: Section) -> None:
    """Checkpoints of very many sessions, seen from inside."""
    folder = bench.folder()
    settings: dict[str, dict[str, Any]] = {
        "off": {"durability": "off"},
        "sqlite": {"store": f"sqlite:{folder / 'sessions.db'}"},
    }
    held: dict[str, Spread] = {}
    for name, options in settings.items():
        file = folder / name
        # More slots than sessions: some are always kept free.
        server = bench.timed(MODEL, FORM, file, sessions=BUSY + BUSY // 10, **options)
        load = bench.load(server, MODEL, sessions=PACKED, blocks=BUSY // PACKED, keep=True)
        load.count(BUSY // PACKED)
        opened = len(_lines(file))
        load.measure(0.0, BUSY_SECONDS if name == "sqlite" else 2.0)
        held[name] = Spread.of([max((float(line[1]) for line in _lines(file)[opened:]), default=0.0)])
    rounds = [float(took) for _, took, count in _lines(folder / "sqlite.rounds") if int(count) >= BUSY]
    name = f"{BUSY:,} busy sessions"
    claim = f"{name}: a checkpoint of all of them"
    section.verdicts += [
        Verdict(claim, Spread.of(rounds), ROUND_BOUND_MS, at_most=True, unit="ms"),
        Verdict(f"{name}: longest hold of the loop", held["sqlite"], HOLD_BOUND_MS, at_most=True, unit="ms"),
    ]
    section.notes.append(
        f"{name}: {len(rounds)} checkpoints of all. A hold is the CPU time of one callback of the loop, {PACKED} steps "
        f"of the model among them; the longest without checkpoints: {held['off'].median:.1f} ms."
    )


def _lines(file: Path) -> list[list[str]]:
    return [line.split(maxsplit=2) for line in file.read_text().splitlines()]


def _before_answer(bench: Bench, section: Section) -> None:
    folder = bench.folder()
    off = bench.gatestream(MODEL, FORM, durability="off")
    waits = bench.gatestream(MODEL, FORM, durability="before-answer", store=f"sqlite:{folder / 'sessions.db'}")
    cases: dict[str, Case] = {}
    counts = (1, 64)
    with Commits(folder / "commits.db", max(counts)) as commits:
        for count in counts:
            for name, server in (("off", off), ("before-answer", waits)):
                load = bench.load(server, MODEL, streams=count, keep=True)
                cases[f"{count} streams, answers, {name}"] = bench.closed(load)
            cases[f"commit, {count}"] = partial(commits.measure, count, bench.pace.seconds)
        windows = bench.interleave(cases, bench.pace.sweeps)
    section.contenders |= {name: summarise(windows[name]) for name in cases}
    for count in counts:
        without, with_it = (
            column(windows[f"{count} streams, answers, {name}"], "p50_us") for name in ("off", "before-answer")
        )
        commit = column(windows[f"commit, {count}"], "p50_us")
        over = Spread.of([(b - a) / each for a, b, each in zip(without, with_it, commit, strict=True)])
        section.verdicts.append(
            Verdict(f"before-answer, {count} streams: p50 over off's, in commits", over, 1.0, at_most=True)
        )
