"""What the Python client costs, over the least that a Python client can cost."""

from benchmarks.harness.bench import Bench, Case
from benchmarks.harness.report import Section, Verdict
from benchmarks.harness.statistics import Figures, Spread, column, ratios, summarise
from benchmarks.models import Form

MODEL = "lstm128"
FORM: Form = "fused"
SESSIONS = (1, 64, 512)
IN_FLIGHT = 8
P50_BOUND = 1.2
CROWD_BOUND = 30_000


def measure(bench: Bench) -> Section:
    section = Section(
        "client",
        0,
        "The Python client",
        "Hidden 128, fused; CPU is that of the client's process. Bare: grpcio alone in the same API sends one message "
        "made before, with a step of every session, and reads of the answer how many steps it holds. Group: one "
        "`Group.step` of all sessions after another. Sessions: a thread, or a task, steps each of them; in flight "
        f"{IN_FLIGHT}: {IN_FLIGHT} of them step the same one.",
    )
    server = bench.gatestream(MODEL, FORM)
    cases: dict[str, Case] = {}
    bare: dict[str, str] = {}

    for api in ("blocking", "asyncio"):
        for count in SESSIONS:
            kinds: dict[str, tuple[str, dict[str, object]]] = {"bare": ("bare", {}), "sessions": ("sessions", {})}
            if count == 1:
                kinds[f"in flight {IN_FLIGHT}"] = "sessions", {"in_flight": IN_FLIGHT}
            else:
                kinds["group"] = "group", {}
            for title, (kind, options) in kinds.items():
                name = f"{api}, {count}: {title}"
                load = bench.python_client(server, MODEL, kind, api=api, sessions=count, **options)
                cases[name] = bench.closed(load)
                bare[name] = f"{api}, {count}: bare"
    windows = bench.interleave(cases, bench.pace.sweeps)
    for name, measured in windows.items():
        section.contenders[name] = summarise(measured) | {
            "client_cpu_over_bare": _over(measured, windows[bare[name]], "client_cpu_step_us"),
            "p50_over_bare": _over(measured, windows[bare[name]], "p50_us"),
        }
    for api in ("blocking", "asyncio"):
        one, many = (section.contenders[f"{api}, {count}: sessions"] for count in (1, max(SESSIONS)))
        section.verdicts += [
            Verdict(f"{api}, one session: p50 over bare", one["p50_over_bare"], P50_BOUND, at_most=True),
            Verdict(f"{api}, {max(SESSIONS)} sessions: steps/s", many["steps_per_s"], CROWD_BOUND, at_most=False),
        ]
    return section


def _over(measured: list[Figures], bare: list[Figures], figure: str) -> Spread:
    return ratios(column(measured, figure), column(bare, figure))
