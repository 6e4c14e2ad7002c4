"""Files that torch's own exporter writes, and the artifacts that adopting makes of them."""

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Final

from benchmarks import models
from benchmarks.models import SHAPES, Form

_ROOT: Final = Path(__file__).parent.parent
LSTM: Final = "lstm128"
WINDOW: Final = "window"
SAMPLES: Final = 512
"""In a window."""

_FORMS: Final[dict[str, tuple[Form | None, ...]]] = {LSTM: (None, "gates"), WINDOW: (None,)}


def original(name: str) -> Path:
    """The file of torch, which `prepare` has made."""
    return models.folder() / f"{name}-torch.onnx"


def adopted(name: str, form: Form | None = None) -> Path:
    """What adopting made of it, in the form that the file has or in another."""
    return models.folder() / f"{name}-adopted{f'-{form}' if form else ''}.onnx"


def prepare() -> None:
    """Export and adopt what was not yet, in a process of its own: the harness does without torch.

    Raises:
        subprocess.CalledProcessError: that failed; it has said why.
    """
    models.folder().mkdir(parents=True, exist_ok=True)
    if missing := [name for name, forms in _FORMS.items() if not all(adopted(name, form).exists() for form in forms)]:
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.strangers", *missing]
        subprocess.run(command, check=True, cwd=_ROOT)


def _write_lstm() -> None:
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            shape = SHAPES[LSTM]
            self.rnn = nn.LSTM(shape.inputs, shape.hidden, batch_first=True)
            self.head = nn.Linear(shape.hidden, shape.outputs)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.head(self.rnn(x)[0])
            return y

    auto = torch.export.Dim.AUTO
    torch.onnx.export(
        Net().eval(),
        (torch.randn(2, 5, SHAPES[LSTM].inputs),),
        str(original(LSTM)),
        dynamo=True,
        input_names=["x"],
        output_names=["y"],
        dynamic_shapes=({0: auto, 1: auto},),
        external_data=False,
    )


def _write_window() -> None:
    """Of the size and kind of a voice-activity detector: a spectrum by convolution, four more, an LSTM of 128."""
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.spectrum = nn.Conv1d(1, 258, 256, stride=128, bias=False)
            sizes = ((129, 128, 1), (128, 64, 2), (64, 64, 2), (64, 128, 1))
            layers = (nn.Conv1d(a, b, 3, stride=stride, padding=1) for a, b, stride in sizes)
            self.encoder = nn.Sequential(*(nn.Sequential(layer, nn.ReLU()) for layer in layers))
            self.rnn = nn.LSTM(128, 128)
            self.head = nn.Linear(128, 1)

        def forward(self, x: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            real, imaginary = self.spectrum(x[:, None]).chunk(2, 1)  # [batch, 129, 3]
            features = self.encoder((real**2 + imaginary**2).sqrt()).mean(2)
            ys, ends = self.rnn(features[None], (state[:1], state[1:]))
            return torch.sigmoid(self.head(ys[0])), torch.cat(ends)

    rows = {0: "batch"}
    torch.onnx.export(
        Net().eval(),
        (torch.randn(2, SAMPLES), torch.zeros(2, 2, 128)),
        str(original(WINDOW)),
        dynamo=False,
        opset_version=16,
        input_names=["x", "state"],
        output_names=["y", "state_next"],
        dynamic_axes={"x": rows, "y": rows, "state": {1: "batch"}, "state_next": {1: "batch"}},
    )


def _make(name: str) -> None:
    import torch

    from gatestream.export.adopting.adopt import adopt
    from gatestream.export.adopting.options import Options

    torch.set_num_threads(1)
    torch.manual_seed(0)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        {LSTM: _write_lstm, WINDOW: _write_window}[name]()
    for form in _FORMS[name]:
        adopt(original(name), adopted(name, form), Options(name=name, form=form))


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        _make(argument)
