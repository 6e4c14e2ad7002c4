"""What torch's two exporters write of its own layers."""

import io
import warnings
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from tests.support.strangers.stranger import State, Stranger, Tensor

F, H = 3, 6


@dataclass(frozen=True)
class Case:
    """One export.

    Attributes:
        states: the caller gives and takes them; else the layer starts from its own zeros.
    """

    kind: Literal["LSTM", "GRU", "RNN", "LSTMCell", "GRUCell"]
    exporter: Literal["dynamo", "torchscript"]
    opset: int
    states: bool = True
    batch_first: bool = True
    bias: bool = True
    layers: int = 1

    @property
    def name(self) -> str:
        marks = [self.kind.lower(), self.exporter, str(self.opset)]
        marks += ["states"] if self.states else []
        marks += ["batch_first"] if self.batch_first else []
        marks += [] if self.bias else ["no_bias"]
        return "_".join([*marks, *([f"{self.layers}_layers"] if self.layers > 1 else [])])


QUICK = (
    Case("LSTM", "dynamo", 18),
    Case("LSTM", "torchscript", 11, states=False),
    Case("GRU", "torchscript", 17, layers=2, batch_first=False),
    Case("LSTMCell", "torchscript", 14),
)
"""For every run of the tests."""

ALL = (
    *QUICK,
    Case("LSTM", "dynamo", 20, states=False, layers=2),
    Case("LSTM", "torchscript", 20, batch_first=False, bias=False),
    Case("LSTM", "torchscript", 13, states=False, layers=2, batch_first=False),
    Case("GRU", "dynamo", 18, bias=False),
    Case("GRU", "torchscript", 11, states=False),
    Case("RNN", "torchscript", 15, batch_first=False),
    Case("GRU", "dynamo", 20, states=False, bias=False, layers=2),
    Case("GRUCell", "torchscript", 12),
    Case("GRUCell", "dynamo", 18),
    Case("LSTMCell", "dynamo", 20),
)


FROZEN = (
    Case("GRU", "dynamo", 20, states=False, batch_first=False, bias=False, layers=2),
    Case("RNN", "dynamo", 18, states=False),
)
"""torch was told that time is dynamic, and froze it at the example's four steps all the same; nothing says so."""


class _Layer(nn.Module):
    def __init__(self, case: Case):
        super().__init__()
        self._states = case.states
        self.rnn = getattr(nn, case.kind)(F, H, num_layers=case.layers, batch_first=case.batch_first, bias=case.bias)
        self.head = nn.Linear(H, 2)

    def forward(self, x: torch.Tensor, *states: torch.Tensor) -> Any:
        given = (states[0] if len(states) == 1 else states) if self._states else None
        ys, last = self.rnn(x, given)
        return (self.head(ys), *(last if isinstance(last, tuple) else (last,))) if self._states else self.head(ys)


class _Cell(nn.Module):
    def __init__(self, case: Case):
        super().__init__()
        self.cell = getattr(nn, case.kind)(F, H, bias=case.bias)
        self.head = nn.Linear(H, 2)

    def forward(self, x: torch.Tensor, *states: torch.Tensor) -> Any:
        last = self.cell(x, states[0] if len(states) == 1 else states)
        h = last[0] if isinstance(last, tuple) else last
        return (self.head(h), *(last if isinstance(last, tuple) else (last,)))


def module_of(case: Case) -> nn.Module:
    """What the file is written of, always with the same weights."""
    torch.manual_seed(0)
    return (_Cell if case.kind.endswith("Cell") else _Layer)(case).eval()


def export(case: Case, folder: Path) -> Stranger:
    """Write the file; seconds."""
    cell = case.kind.endswith("Cell")
    module = module_of(case)
    lstm = case.kind.startswith("LSTM")
    starts = ["h0", "c0"][: 1 + lstm] if case.states else []
    ends = ["hn", "cn"][: 1 + lstm] if case.states else []
    batch, time = (0, None) if cell else (0, 1) if case.batch_first else (1, 0)
    x = torch.randn(2, F) if cell else torch.randn(2, 4, F) if case.batch_first else torch.randn(4, 2, F)
    state_shape = (2, H) if cell else (case.layers, 2, H)
    state_batch = 0 if cell else 1
    axes = {"x": _axes(batch, time), "y": _axes(batch, time)}
    axes |= {key: {state_batch: "batch"} for key in starts + ends}
    path = folder / f"{case.name}.onnx"
    arguments = (x, *(torch.zeros(state_shape) for _ in starts))
    names: dict[str, Any] = {"input_names": ["x", *starts], "output_names": ["y", *ends], "opset_version": case.opset}
    # Both exporters talk, and warn of themselves.
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")
        if case.exporter == "dynamo":
            # A named Dim fails or passes depending on earlier exports in the process.
            auto = torch.export.Dim.AUTO
            shapes: list[Any] = [dict.fromkeys(axes["x"], auto)]
            if starts:  # one mapping for each of *states
                shapes.append(tuple({state_batch: auto} for _ in starts))
            torch.onnx.export(
                module, arguments, str(path), dynamo=True, dynamic_shapes=tuple(shapes), external_data=False, **names
            )
        else:
            torch.onnx.export(module, arguments, str(path), dynamo=False, dynamic_axes=axes, **names)
    states = tuple(State(a, b, state_batch) for a, b in zip(starts, ends, strict=True))
    hidden = () if case.states else ((H,),) * (case.layers * (1 + lstm))
    return Stranger(
        case.name,
        path,
        (Tensor("x", batch, time),),
        (Tensor("y", batch, time),),
        states,
        hidden=hidden,
        whole=not cell,
    )


def _axes(batch: int, time: int | None) -> dict[int, str]:
    return {batch: "batch"} | ({} if time is None else {time: "time"})
