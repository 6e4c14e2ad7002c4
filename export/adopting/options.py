"""What a caller says of a file because nothing in the file does."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from gatestream.export.rewriting.reform import Form


@dataclass(frozen=True, slots=True)
class Options:
    """Everything is by the file's own names; what is left out is found out, or is an error that names the flag.

    Attributes:
        states: by input, the output that has what becomes of it.
        constants: by input, its value for good; None: every session sets one.
        time: by input, which axis is time; None: it has none.
        batch: by input, which axis is the sessions'.
        windows: by input, how many samples of its one dynamic axis a step has, without context.
        context: by input, how many samples before the window the file expects in front of it.
        initial: by state, what a new session starts from: one number, or the state's shape with 1 for the batch.
        name: of the model; empty: the file's without its suffix.
        version: what the server calls it.
        form: "gates" shows the equations of every LSTM and GRU and puts their gates out, "fused" has them as operators;
            None: as the file has them.
        stateless: adopt a file that carries nothing from step to step.
    """

    states: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, NDArray[Any] | None] = field(default_factory=dict)
    time: Mapping[str, int | None] = field(default_factory=dict)
    batch: Mapping[str, int] = field(default_factory=dict)
    windows: Mapping[str, int] = field(default_factory=dict)
    context: Mapping[str, int] = field(default_factory=dict)
    initial: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    name: str = ""
    version: str = "1"
    form: Form | None = None
    stateless: bool = False

    def flags(self) -> dict[str, set[str]]:
        """The inputs that each flag names."""
        return {
            "--state": set(self.states),
            "--constant": set(self.constants),
            "--time": set(self.time),
            "--batch": set(self.batch),
            "--window": set(self.windows),
            "--context": set(self.context),
            "--initial": set(self.initial),
        }
