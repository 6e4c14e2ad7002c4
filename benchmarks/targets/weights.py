"""What weights in fewer bits cost and save."""

import json
import subprocess
import sys
from typing import Final

from benchmarks import models
from benchmarks.harness.bench import Bench, Case
from benchmarks.harness.processes import ROOT
from benchmarks.harness.report import Section
from benchmarks.harness.statistics import Figures, Spread, column, ratios
from benchmarks.models import SHAPES, Form, Weights, artifact

MODELS: Final = ("lstm128", "lstm512", "lstm1024")
FILES: Final[tuple[tuple[Form, Weights], ...]] = (
    ("fused", "float32"),
    ("fused", "float16"),
    ("gates", "float32"),
    ("gates", "int8"),
)
SERVED: Final = (("fused", "float32"), ("fused", "float16"), ("gates", "float32"), ("gates", "int8"))
BATCHES: Final = (1, 32, 128)
SERVED_BATCHES: Final = (1, 128)
# There are many windows, and a bare run is steady.
SECONDS: Final = 0.2
WINDOWS: Final = 2


def measure(bench: Bench) -> Section:
    section = Section(
        "weights",
        0,
        "Weights in fewer bits",
        "Time of one step of a batch, over that of form fused with float32: of limit-run on one thread, and through "
        "the server, its sessions packed on one stream. y off: the largest difference of an output from the float32 "
        "file's, in thousandths, over 256 carried steps of 8 sessions; these weights are noise, and outputs go to "
        "about 0.4. What a trained model loses says `gatestream export`.",
    )
    models.prepare([(model, form, weights) for model in MODELS for form, weights in FILES])
    for model in MODELS:
        # Its processes end before the next model's start.
        with Bench(bench.pace, f"weights, {model}") as inner:
            _measure(inner, model, section)
    return section


def _measure(bench: Bench, model: str, section: Section) -> None:
    cases: dict[str, Case] = {}
    resident: dict[str, float] = {}
    for form, weights in FILES:
        for batch in BATCHES:
            bare = bench.bare_run(model, form, batch, weights=weights)
            cases[f"{form} {weights}, run_{batch}"] = bench.closed(bare, SECONDS)
        if (form, weights) in SERVED:
            server = bench.gatestream(model, form, weights)
            for batch in SERVED_BATCHES:
                cases[f"{form} {weights}, served_{batch}"] = bench.closed(
                    bench.load(server, model, sessions=batch), SECONDS
                )
            resident[f"{form} {weights}"] = server.resident_bytes() / 2**20
    windows = bench.interleave(cases, WINDOWS)
    off = _off(model)
    for form, weights in FILES:
        figures = {}
        for case, found in windows.items():
            file, _, what = case.rpartition(", ")
            if file == f"{form} {weights}":
                # Steps are counted a second: time is the other way round.
                base = column(windows[f"fused float32, {what}"], "steps_per_s")
                figures[what] = ratios(base, column(found, "steps_per_s"))
        path = artifact(model, form, weights)
        figures["file_mib"] = Spread.of([path.stat().st_size / 2**20])
        if f"{form} {weights}" in resident:
            figures["resident_mib"] = Spread.of([resident[f"{form} {weights}"]])
        if str(path) in off:
            figures["off"] = Spread.of([1000 * off[str(path)]])
        section.contenders[f"hidden {SHAPES[model].hidden}, {form} {weights}"] = figures
    hidden = SHAPES[model].hidden
    pays = [batch for batch in BATCHES if section.contenders[f"hidden {hidden}, gates int8"][f"run_{batch}"].median < 1]
    verdict = f"at batch {', '.join(map(str, pays))}" if pays else "at no batch"
    section.notes.append(
        f"Hidden {hidden}: int8 is faster than float32 in its faster form {verdict}. Over float32 of the same form: "
        f"{_same_form(windows)}."
    )


def _off(model: str) -> dict[str, float]:
    paths = [str(artifact(model, *file)) for file in FILES]
    command = [sys.executable, "-m", "benchmarks.contenders.apart", *paths]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, cwd=ROOT).stdout)
    return found


def _same_form(windows: dict[str, list[Figures]]) -> str:
    parts = []
    for form, weights in (("fused", "float16"), ("gates", "int8")):
        found = []
        for batch in BATCHES:
            base, ours = (
                column(windows[f"{form} {stored}, run_{batch}"], "steps_per_s") for stored in ("float32", weights)
            )
            ratio = ratios(base, ours)
            found.append(f"{ratio.median:.2f}")
        parts.append(f"{form} {weights} {', '.join(found)} at batch {', '.join(map(str, BATCHES))}")
    return "; ".join(parts)
