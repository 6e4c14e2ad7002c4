"""Adopting and exporting everything that is in the table: what was found, and how far it is from the original."""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from benchmarks.harness.machine import cores
from gatestream.export.adopting.adopt import adopt
from gatestream.export.errors import ArtifactError
from gatestream.export.proof.report import Report
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.models.catalogue import Entry, entries
from tests.models.modules import MODULES, OWN_MODULES, Module, OwnModule
from tests.support.strangers.comparison import differences
from tests.support.strangers.exported import ALL, FROZEN, export
from tests.support.strangers.generators import ADOPTED, REFUSED
from tests.support.strangers.options import options
from tests.support.strangers.stranger import Stranger


@dataclass(frozen=True)
class Outcome:
    """What came of a file or module.

    Attributes:
        package: that holds it, or the style that it was generated in.
        file: or the module.
        spec: of the artifact; None: it was refused.
        report: of its proof.
        apart: the largest difference from the original, run by its own convention, by how the artifact was run.
        refused: why.
        seconds: that it took.
    """

    package: str
    file: str
    spec: pb.ModelSpec | None = None
    report: Report | None = None
    apart: dict[str, float] | None = None
    refused: str = ""
    seconds: float = 0.0


def files() -> Iterator[Outcome]:
    """Every file of the packages."""
    for entry in entries():
        yield of_file(entry.package, _what(entry), entry.stranger)


def seconds() -> dict[str, float]:
    """What adopting, or refusing, each file of the packages takes, by its name; on all cores, each file on one."""
    count = len(entries())
    with ProcessPoolExecutor(min(count, cores()), get_context("spawn")) as pool:
        return dict(pool.map(_seconds, range(count)))


def _seconds(number: int) -> tuple[str, float]:
    entry = entries()[number]
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        with suppress(ArtifactError):
            adopt(entry.stranger.path, Path(folder) / "adopted.onnx", options(entry.stranger))
        return f"{entry.package}, {_what(entry)}", time.perf_counter() - began


def _what(entry: Entry) -> str:
    return entry.file + "".join(f", {name} {value}" for name, value in entry.stranger.fixed.items())


def modules() -> Iterator[Outcome]:
    """Every module of the packages, and those that are written here."""
    yield from map(of_module, MODULES)
    yield from map(of_module, OWN_MODULES)


def generated() -> Iterator[Outcome]:
    """Every file of the generators."""
    with tempfile.TemporaryDirectory() as folder:
        for name, generator in (ADOPTED | REFUSED).items():
            style = generator.__module__.rpartition(".")[2]
            yield of_file(f"generated: {_STYLES[style]}", name, generator(Path(folder)))
        for case in (*ALL, *FROZEN):
            yield of_file(f"generated: torch, {case.exporter}", case.name, export(case, Path(folder)))


_STYLES = {
    "layers": "by hand",
    "generators": "by hand",
    "keras": "keras, tf2onnx",
    "windows": "by hand",
    "signatures": "by hand",
}


def of_file(package: str, file: str, stranger: Stranger) -> Outcome:
    """Adopt it."""

    def make(artifact: Path) -> tuple[pb.ModelSpec, Report]:
        made = adopt(stranger.path, artifact, options(stranger))
        return made.spec, made.report

    return _outcome(package, file, make, lambda artifact: differences(stranger, artifact))


def of_module(module: Module | OwnModule) -> Outcome:
    """Export it."""
    return _outcome(module.package, module.name, module.export, module.differences)


def _outcome(
    package: str,
    file: str,
    make: Callable[[Path], tuple[pb.ModelSpec, Report]],
    compare: Callable[[Path], dict[str, float]],
) -> Outcome:
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        artifact = Path(folder) / "adopted.onnx"
        try:
            spec, report = make(artifact)
        except ArtifactError as error:
            return Outcome(package, file, refused=str(error), seconds=time.perf_counter() - began)
        seconds = time.perf_counter() - began
        return Outcome(package, file, spec, report, compare(artifact), seconds=seconds)


def table(outcomes: Sequence[Outcome]) -> str:
    """In Markdown, a line for each."""
    lines = [
        "| package | file or module | found | rewritten | proved | largest difference | s |",
        "| --- | --- | --- | --- | --- | ---: | ---: |",
    ]
    return "\n".join([*lines, *(_row(outcome) for outcome in outcomes)])


def _row(outcome: Outcome) -> str:
    if outcome.spec is None or outcome.report is None or outcome.apart is None:
        cells = [f"refused: {outcome.refused}", "", "", ""]
    else:
        spec = outcome.spec
        checks = ", ".join(check.name for check in outcome.report.checks)
        alone = "" if spec.promises.rows_independent else "; a row's numbers depend on its neighbours'"
        cells = [
            _found(spec),
            "; ".join(spec.source.rewritten) or "nothing",
            checks + alone,
            f"{max(outcome.apart.values()):.1g}",
        ]
    cells = [outcome.package, outcome.file, *cells, f"{outcome.seconds:.1f}"]
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


_ROLES = {
    pb.STATE_ROLE_HIDDEN: "h",
    pb.STATE_ROLE_CELL: "c",
    pb.STATE_ROLE_CONTEXT: "context",
    pb.STATE_ROLE_CONSTANT: "constant",
}


def _found(spec: pb.ModelSpec) -> str:
    """States with their pairs and axes; axes of inputs and outputs; constants, and what is ignored."""
    axes = {tensor.becomes: tensor.batch_axis for tensor in spec.source.tensors if tensor.becomes}
    states = []
    for state in spec.states:
        role = f" {_ROLES[state.role]}" if state.role in _ROLES else ""
        where = axes.get(state.input, -1)
        batch = f", sessions axis {where}" if where >= 0 else ""
        states.append(f"`{state.input}` → `{state.output}` {list(state.shape)}{role}{batch}")
    parts = ["; ".join(states)]
    for tensor in spec.source.tensors:
        if tensor.role in ("input", "output"):
            time_axis = f"time axis {tensor.time_axis}" if tensor.time_axis >= 0 else "one step a run"
            parts.append(f"{tensor.role} `{tensor.name}`: {time_axis}")
        elif tensor.role in ("constant", "ignored"):
            parts.append(f"`{tensor.name}` {tensor.role}")
    return "; ".join(parts)
