"""What a run of the benchmark found; to JSON and back."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness.statistics import Spread
from gatestream.files.writing import write


@dataclass(frozen=True, slots=True)
class Verdict:
    """One bound of a target, and what was measured against it.

    Attributes:
        claim: the bound in words, without its number.
        unit: of `measured` and `bound`; empty for a ratio.
        at_most: `bound` is the most allowed; else it is the least.
    """

    claim: str
    measured: Spread
    bound: float
    at_most: bool
    unit: str = ""

    @property
    def hit(self) -> bool:
        """By the median."""
        return self.measured.median <= self.bound if self.at_most else self.measured.median >= self.bound


@dataclass(slots=True)
class Section:
    """One target, or another thing worth a table.

    Attributes:
        key: its name on the command line.
        number: of the target; 0 where there is none.
        setting: what was measured and how, in a sentence or two.
        contenders: by name, each figure's spread.
        notes: what else was found.
        points: for the curves, by line: one mapping of figures for each point.
    """

    key: str
    number: int
    title: str
    setting: str
    contenders: dict[str, dict[str, Spread]] = field(default_factory=dict)
    verdicts: list[Verdict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    points: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(slots=True)
class Report:
    """A run.

    Attributes:
        machine: what it ran on, in the order to be shown.
        settings: how it ran.
    """

    machine: dict[str, str]
    settings: dict[str, str]
    sections: list[Section] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write JSON."""
        write(path, (json.dumps(asdict(self), indent=1) + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> "Report":
        """Read what `save` wrote."""
        values: dict[str, Any] = json.loads(path.read_text())
        return cls(values["machine"], values["settings"], [_section(item) for item in values["sections"]])


def _section(values: dict[str, Any]) -> Section:
    contenders = {
        name: {figure: Spread(**spread) for figure, spread in figures.items()}
        for name, figures in values["contenders"].items()
    }
    verdicts = [Verdict(**{**item, "measured": Spread(**item["measured"])}) for item in values["verdicts"]]
    return Section(**{**values, "contenders": contenders, "verdicts": verdicts})
