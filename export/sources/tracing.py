"""torch to ONNX for a module of the user's: its graph in the normal form of contract 2."""

from dataclasses import dataclass

import onnx_ir as ir
import onnx_ir.passes.common as common
import torch
from onnx_ir.passes import InvariantError, PassError
from torch import Tensor, nn

from gatestream.export.errors import SourceError
from gatestream.export.graph.edit import keep
from gatestream.export.graph.passes import simplify
from gatestream.export.graph.picked import pick
from gatestream.export.graph.scanning import over_time
from gatestream.export.rewriting.convolutions import multiply_out
from gatestream.export.sources.arguments import described
from gatestream.export.sources.checkpoint import OPSET, quiet
from gatestream.export.sources.operators import name_layers, written
from gatestream.export.sources.ports import Port
from gatestream.export.sources.recurrent import layers
from gatestream.export.sources.stand_ins import open_lengths, unpacked
from gatestream.export.sources.streamed import Streamed

_PREFIX = "streamed.module."


class _Chunk(nn.Module):
    """The module with flat inputs and outputs: several steps a call."""

    def __init__(self, streamed: Streamed) -> None:
        super().__init__()
        self.streamed = streamed

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        count = len(self.streamed.signature.inputs)
        run = self.streamed.step if self.streamed.stepwise else self.streamed.chunk
        outputs, states = run(tensors[:count], tensors[count:], traced=True)
        states = states[: len(states) - len(self.streamed.signature.constants)]
        # A tensor that comes out under two names, or that goes in and out, is a tensor of its own.
        return tuple(each.clone() for each in (*outputs, *states))


@dataclass(frozen=True, slots=True)
class Traced:
    """What torch made of a module.

    Attributes:
        model: inputs and outputs [batch, time, *shape], then states [batch, *shape].
        rewritten: what was done, one line each.
        rows_frozen: its number of rows was taken for a constant somewhere; where that mattered the file is wrong.
    """

    model: ir.Model
    rewritten: tuple[str, ...]
    rows_frozen: bool


def trace(streamed: Streamed) -> Traced:
    """Export a module, its weights named as in its `state_dict`.

    Raises:
        SourceError: torch cannot export it.
    """
    program = _program(streamed)
    rows_open, steps_open = _open_axes(program, streamed)
    done: tuple[str, ...] = ()
    if not streamed.stepwise and not steps_open:
        streamed.stepwise = True
        program = _program(streamed)
        rows_open, _ = _open_axes(program, streamed)
        done = ("one step in a Scan over time: forward is written for a number of steps (a loop in Python)",)
    elif streamed.stepwise:
        done = ("one step in a Scan over time",)
    said = (written(name or type(layer).__name__, layer) for name, layer in layers(streamed.module).items())
    done += tuple(line for line in said if line)
    model, multiplied = _converted(program, streamed)
    return Traced(model, (*done, *multiplied), rows_frozen=not rows_open)


def _program(streamed: Streamed) -> torch.export.ExportedProgram:
    """What torch makes of it, in torch's own operators."""
    batch, time = _unlike(streamed)
    inputs = [x if not streamed.stepwise else x[:, 0] for x in streamed.signature.sample(batch, time, seed=0)]
    dynamic = torch.export.Dim.AUTO
    of_inputs = {0: dynamic} if streamed.stepwise else {0: dynamic, 1: dynamic}
    states = streamed.start(streamed.signature.sample_constants(batch, seed=0), batch)
    shapes = (*([of_inputs] * len(inputs)), *([{0: dynamic}] * len(states)))
    try:
        with quiet(), unpacked(), open_lengths(streamed.module), torch.no_grad():
            return torch.export.export(_Chunk(streamed).eval(), (*inputs, *states), dynamic_shapes={"tensors": shapes})
    except SourceError:
        raise
    except Exception as error:  # torch raises whatever the user's code leads it to
        raise SourceError(
            f"torch {torch.__version__} cannot export {described(streamed.module)}: {_line(error)}"
        ) from error


def _converted(program: torch.export.ExportedProgram, streamed: Streamed) -> tuple[ir.Model, list[str]]:
    """The same in ONNX's, and what was done to it there."""
    stepwise, constants = streamed.stepwise, streamed.signature.constants
    changing = streamed.states[: len(streamed.states) - len(constants)]
    inputs = [port.name for port in (*streamed.signature.inputs, *streamed.states)]
    outputs = [each.port.name for each in streamed.outputs] + [after(port) for port in changing]
    try:
        with quiet():
            made = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                input_names=inputs,
                output_names=outputs,
                optimize=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise SourceError(
            f"torch {torch.__version__} cannot write {described(streamed.module)}: {_line(error)}"
        ) from error
    assert made is not None  # it is None only where dynamo=False
    model = made.model
    try:
        simplify(_PREFIX)(model)
    except (PassError, InvariantError) as error:
        raise SourceError(
            f"{described(streamed.module)}: what torch wrote cannot be put in order: {_line(error)}"
        ) from error
    if streamed.loops:
        pick(model)
    name_layers(model)
    common.ClearMetadataAndDocStringPass()(model)  # the exporter notes stack traces there
    _annotate(model, streamed, stepwise=stepwise)
    done = multiply_out(model)
    common.RemoveUnusedNodesPass()(model)
    if stepwise:
        over_time(model, [port.name for port in streamed.signature.inputs], {p.name: after(p) for p in changing})
    values = {value.name: value for value in model.graph.inputs}
    for port in constants:
        keep(model, values[port.name], after(port))
    return model, done


def after(port: Port) -> str:
    """What a state is called after the step."""
    return f"{port.name}_next"


def _annotate(model: ir.Model, streamed: Streamed, *, stepwise: bool) -> None:
    """Shapes as the contract has them: of an output torch notes the example's number of steps."""
    lead: list[str | int] = ["batch"] if stepwise else ["batch", "time"]
    expected = {port.name: [*lead, *port.shape] for port in streamed.signature.inputs}
    expected |= {each.port.name: [*lead, *each.port.shape] for each in streamed.outputs}
    for port in streamed.states:
        expected[port.name] = expected[after(port)] = ["batch", *port.shape]
    for node in model.graph.all_nodes():
        for value in node.outputs:
            value.shape = None  # torch notes the example's sizes, and onnxruntime believes them
    for value in (*model.graph.inputs, *model.graph.outputs):
        value.shape = ir.Shape(expected[value.name or ""])


def _open_axes(program: torch.export.ExportedProgram, streamed: Streamed) -> tuple[bool, bool]:
    """Whether the number of rows, and that of steps, was left open."""
    places = [node for node in program.graph.nodes if node.op == "placeholder"]
    inputs = len(streamed.signature.inputs)
    taken = places[-inputs - len(streamed.states) :]
    open_axes = [[_is_open(size) for size in node.meta["val"].shape] for node in taken]
    steps = not streamed.stepwise and all(axes[1] for axes in open_axes[:inputs])
    return all(axes[0] for axes in open_axes), steps


def _is_open(size: int | torch.SymInt) -> bool:
    # One that was frozen stays a SymInt, of which nothing is left to be known.
    return isinstance(size, torch.SymInt) and bool(size.node.expr.free_symbols)


def _unlike(streamed: Streamed) -> tuple[int, int]:
    """Rows and steps to trace with: more than one, and no size that the module has."""
    ports = (*streamed.signature.inputs, *streamed.states, *(each.port for each in streamed.outputs))
    taken = {size for port in ports for size in port.shape}
    first, second, *_ = (size for size in range(5, 2 * len(taken) + 16) if size not in taken)
    return first, second


def _line(error: BaseException) -> str:
    """The innermost cause in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
