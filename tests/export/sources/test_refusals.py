"""What cannot take one step at a time is refused in one line that names the part; and it is right to refuse it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn

from gatestream.export.errors import ArtifactError, NotStreamableError, SourceError, StatelessError, StructureError
from gatestream.export.sources.module import export_module
from tests.export.sources import modules
from tests.export.sources.modules import Wrapped

X = {"inputs": ["x[4]"]}
REFUSED: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], type[ArtifactError], str]] = {
    "a hidden causal convolution": (
        modules.HiddenConv,
        X,
        NotStreamableError,
        "'conv' (Conv1d) gives other numbers when a chunk begins at step 6",
    ),
    "an attribute": (modules.Attribute, X, NotStreamableError, "it keeps 'last' from call to call"),
    "a buffer": (modules.Buffer, X, NotStreamableError, "it keeps 'norm.mean' from call to call"),
    "both directions": (
        lambda: Wrapped(modules.BothDirections()),
        X,
        NotStreamableError,
        "'before.lstm' (LSTM) is bidirectional",
    ),
    "looking ahead": (
        lambda: Wrapped(behind=modules.Reversed()),
        X,
        NotStreamableError,
        "'behind' (Reversed) gives other numbers when the sequence ends after 1 steps",
    ),
    "counting from the chunk's start": (
        lambda: Wrapped(behind=modules.Pooled()),
        X,
        NotStreamableError,
        "'behind' (Pooled) gives other numbers when a chunk begins at step 6",
    ),
    "noise": (lambda: Wrapped(modules.Noisy()), X, NotStreamableError, "something in it is random"),
    "rows": (
        lambda: Wrapped(modules.Mixed()),
        X,
        NotStreamableError,
        "'before' (Mixed) gives a row other numbers alone",
    ),
    "time taken for rows": (
        lambda: nn.LSTM(4, 6),
        {"inputs": ["input[4]"]},
        NotStreamableError,
        "gives a row other numbers alone than among others",
    ),
    "a start from the input": (
        modules.Decoder,
        X,
        NotStreamableError,
        "'decoder' (GRU) starts from a state that is computed",
    ),
    "one layer twice": (modules.TwoPasses, X, NotStreamableError, "'gru' (GRU) runs 2 times in 5 steps"),
    "a state that decays by the step's input": (
        modules.Decaying,
        X,
        NotStreamableError,
        "'cell' (GRUCell) is given for each step what is computed of the state with the step's own inputs",
    ),
    "rows that are sorted": (
        modules.Sorting,
        {**X, "length": "lengths"},
        SourceError,
        "pack them as they come, with enforce_sorted=False",
    ),
    "complex numbers": (
        modules.MinGRU,
        {**X, "states": ["h:complex64[6]"]},
        SourceError,
        "pass pairs of numbers, and make them complex by torch.view_as_complex",
    ),
    "no time": (
        lambda: nn.LSTMCell(4, 6),
        {"inputs": ["input[batch,4]"]},
        NotStreamableError,
        "the module (LSTMCell) begins anew at each call, and no input has a time axis",
    ),
    "no state": (lambda: nn.Linear(4, 3), {"inputs": ["input[4]"]}, StatelessError, "Linear has no state"),
    "operators of float64": (
        lambda: nn.GRU(4, 6, batch_first=True).double(),
        {"inputs": ["input:float64[4]"], "form": "fused"},
        StructureError,
        "GRU 'gru' computes in float64, for which onnxruntime has no operator",
    ),
    "bfloat16": (
        lambda: modules.Brain(),
        X,
        SourceError,
        "'gru' computes in bfloat16, which no artifact has: call float() first",
    ),
    "a number of rows": (modules.Rows, X, SourceError, "Rows is written for one number of rows"),
    "another number of steps": (
        lambda: Wrapped(behind=modules.Subsampled()),
        X,
        SourceError,
        "output 'y' has 3 steps for 5",
    ),
    "a state that grows": (
        modules.Growing,
        {"inputs": ["x[4]"], "states": ["cache[2,4]"]},
        SourceError,
        "state cache:float32[batch,2,4] comes back as float32 [3, 7, 4], expected [3, 2, 4]",
    ),
    "a state too few": (
        modules.Hidden,
        {"inputs": ["x[4]"], "states": ["h[6]"]},
        SourceError,
        "Hidden has no parameter 'h': its forward takes x",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_streamed_is_refused_by_name(case: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    make, said, error, message = REFUSED[case]
    with pytest.raises(error) as refused:
        export_module(make(), tmp_path / "mine.onnx", **said)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_torchscript_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is TorchScript"):
        export_module(torch.jit.script(nn.Linear(4, 3)), tmp_path / "mine.onnx", inputs=["input[4]"])


def test_what_carries_nothing_is_taken_when_asked(tmp_path: Path) -> None:
    made = export_module(nn.Linear(4, 3), tmp_path / "mine.onnx", inputs=["input[4]"], stateless=True)
    assert made.report.passed
    assert not made.spec.states


@pytest.mark.filterwarnings("ignore")
def test_quantised_layers_are_refused(tmp_path: Path) -> None:
    quantize = cast(Callable[..., nn.Module], torch.ao.quantization.quantize_dynamic)
    made = quantize(modules.Hidden(), {nn.LSTM}, dtype=torch.qint8)
    with pytest.raises(SourceError, match=r"'lstm' \(LSTM\) is quantised, .*: export the module as it is before"):
        export_module(made, tmp_path / "mine.onnx", inputs=["x[4]"])
