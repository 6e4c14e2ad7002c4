"""torch to ONNX: a network's own cells, in torch's scan, to an ONNX Scan."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan  # what torch.export knows; torch has no public name for it

from gatestream.model.network import Network

OPSET = 20
"""The newest for which onnxruntime has CUDA kernels of every operator used here; its LSTM ends at 21."""

INPUTS = ("x", "length", "h", "c")
OUTPUTS = ("y", "h_next", "c_next", "i", "f", "g", "o")


class _Streaming(nn.Module):
    """A network with the artifact's inputs and outputs, batch first.

    Only the recurrence is in the scan. Its carry is one tensor per layer and state, so that a step neither
    takes apart nor puts together the [batch, layers, hidden] of the contract. The products with the input
    stay inside: hoisting those of the first layer out of the loop was measured to cost at one step a run
    what it saves at sixteen.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, length: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        cells = self.network.cells

        def step(carry: list[Tensor], below: Tensor) -> tuple[list[Tensor], list[Tensor]]:
            *states, t = carry
            live = (t < length).unsqueeze(1)  # [batch, 1]
            carried, gates = [], []
            for layer, cell in enumerate(cells):
                h, c = states[2 * layer : 2 * layer + 2]  # [batch, hidden]
                below, c_next, activations = cell(below, h, c)
                carried += [torch.where(live, below, h), torch.where(live, c_next, c)]
                gates += activations
            return [*carried, t + 1], [below, *gates]

        # contiguous: scan wants a carry that comes in as it goes out
        initial = [state.select(1, layer).contiguous() for layer in range(len(cells)) for state in (h, c)]
        below = self.network.encode(x).transpose(0, 1)  # [time, batch, encoded]
        (*states, _), (hs, *gates) = scan(step, [*initial, torch.zeros((), dtype=torch.int32)], below)
        return (
            self.network.decode(hs).transpose(0, 1),  # [batch, time, outputs]
            torch.stack(states[0::2], dim=1),  # [batch, layers, hidden]
            torch.stack(states[1::2], dim=1),
            *(torch.stack(gates[gate::4], dim=2).transpose(0, 1) for gate in range(4)),
        )


def trace(network: Network) -> ir.Model:
    """Export a network as the torch exporter leaves it: see `passes` for what is to be done then.

    Parameters are initializers named `network.cells.0.forget_gate.R` and so on; inputs are `INPUTS`, outputs
    `OUTPUTS`, batch and time dynamic.
    """
    config = network.config
    batch, time = 2, 3  # any: both are dynamic
    x = torch.zeros(batch, time, dtype=torch.int64) if config.tokens else torch.zeros(batch, time, config.inputs)
    h, c = network.initial_state(batch)
    dims = {"batch": torch.export.Dim("batch"), "time": torch.export.Dim("time")}
    rows = {0: dims["batch"]}
    with quiet(), _evaluating(network), torch.no_grad():
        program = torch.onnx.export(
            _Streaming(network).eval(),
            (x, torch.full((batch,), time, dtype=torch.int32), h, c),
            dynamo=True,
            opset_version=OPSET,
            input_names=INPUTS,
            output_names=OUTPUTS,
            dynamic_shapes=(rows | {1: dims["time"]}, rows, rows, rows),
            optimize=False,
            verbose=False,
        )
    assert program is not None  # it is None only where dynamo=False
    return program.model


@contextmanager
def _evaluating(network: Network) -> Iterator[None]:
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep to itself what torch tells its own developers about an export that works."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)  # "torchvision is not installed"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
            warnings.filterwarnings("ignore", message="# The axis name", category=UserWarning)
            # Of weights that torch's own layers hold twice, and of torch's own use of what it gives up.
            warnings.filterwarnings("ignore", message=".* assigned during export", category=UserWarning)
            warnings.filterwarnings("ignore", message="`torch.jit", category=DeprecationWarning)
            yield
    finally:
        logger.setLevel(level)
