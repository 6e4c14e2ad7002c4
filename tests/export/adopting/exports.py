"""torch modules, and what torch's two exporters make of them."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

Exporter = Literal["dynamo", "torchscript"]

KINDS: dict[str, Any] = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}


class Stack(nn.Module):
    """A recurrent stack and a linear head, [batch, time, 3] or [time, batch, 3] to as many of 2."""

    def __init__(self, kind: str, layers: int = 1, batch_first: bool = True, bias: bool = True) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.rnn = KINDS[kind](3, 4, num_layers=layers, batch_first=batch_first, bias=bias)
        self.head = nn.Linear(4, 2)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.rnn(x)[0])
        return y


class WithStates(Stack):
    """The same, with its states in and out."""

    def forward(self, x: Tensor, h: Tensor, c: Tensor | None = None) -> tuple[Tensor, ...]:  # type: ignore[override]
        y, last = self.rnn(x, h if c is None else (h, c))
        return self.head(y), *(last if isinstance(last, tuple) else (last,))


class WithLast(Stack):
    """The same, with the last states out and none in."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        y, last = self.rnn(x)
        return self.head(y), *(last if isinstance(last, tuple) else (last,))


def export(
    module: nn.Module,
    inputs: Sequence[Tensor],
    path: Path,
    *,
    exporter: Exporter = "torchscript",
    opset: int = 17,
    names: tuple[Sequence[str], Sequence[str]],
    axes: Mapping[str, Sequence[str | None]],
) -> Path:
    """Write an ONNX file.

    Args:
        module: in evaluation mode.
        inputs: an example.
        path: of the file.
        exporter: of torch's two.
        opset: to ask for.
        names: of inputs and outputs.
        axes: by input and output, the name of each axis; None: of one size.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter == "dynamo":
            dynamic = [{k: torch.export.Dim.AUTO for k, name in enumerate(axes[tensor]) if name} for tensor in names[0]]
            torch.onnx.export(
                module,
                tuple(inputs),
                path,
                dynamo=True,
                opset_version=opset,
                input_names=names[0],
                output_names=names[1],
                dynamic_shapes=tuple(dynamic),
                external_data=False,
                verbose=False,
            )
        else:
            torch.onnx.export(
                module,
                tuple(inputs),
                str(path),
                dynamo=False,
                opset_version=opset,
                input_names=names[0],
                output_names=names[1],
                dynamic_axes={t: {k: n for k, n in enumerate(named) if n} for t, named in axes.items()},
            )
    return path
