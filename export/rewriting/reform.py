"""The form of any model: its cells with their gates in sight, or as ONNX's own operators."""

from collections.abc import Sequence
from typing import Literal

import onnx_ir as ir
import onnx_ir.passes.common as common

from gatestream.export.artifact import stored_fingerprint
from gatestream.export.errors import StructureError
from gatestream.export.finder.cells import FoundCell
from gatestream.export.finder.claims import KINDS
from gatestream.export.finder.operators import DEFAULTS
from gatestream.export.finder.survey import survey
from gatestream.export.rewriting.fuse_cells import fuse_cell
from gatestream.export.rewriting.showing import hide, show
from gatestream.export.rewriting.unfuse import unfuse
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.roles import OF_CELL

Form = Literal["gates", "fused"]


def reform(model: ir.Model, spec: pb.ModelSpec, form: Form) -> None:
    """Give a model of contract 2 another form; its numbers and its weights' fingerprint stay what they are.

    Form gates: every LSTM and GRU operator becomes its equations, each gate's weights an initializer of its own, and
    the activations of their gates, and of cells that were equations already, become outputs. Form fused: they are
    operators again, and show nothing.

    Args:
        model: its graph, in normal form; it is changed.
        spec: what it says of itself; so is it: its form, its gates, its cells and `stored_fingerprint`.
        form: to give it.

    Raises:
        StructureError: there is no LSTM and no GRU in it, or one that cannot be shown, or has no operator.
        ArtifactError: onnxruntime refuses the result, or is not installed.
    """
    cells = [cell for cell in survey(model, [state.input for state in spec.states]) if cell.kind != "RNN"]
    quantised = next((node for node in model.graph.all_nodes() if node.op_type == "DynamicQuantizeLSTM"), None)
    if quantised is not None:
        raise StructureError(
            f"--form {form}: DynamicQuantizeLSTM '{quantised.name}' keeps its gates to itself, and rounds by ranges "
            "that its equations would not; give the float32 file, or leave --form out"
        )
    if not cells:
        raise StructureError(
            f"--form {form}: data flow shows no LSTM and no GRU in it, so it has no gates; leave --form out"
        )
    names = _matched(cells, spec)
    claims = {claim.name: claim for claim in spec.cells}
    doubles = {state.input for state in spec.states if state.dtype == pb.DATA_TYPE_FLOAT64}
    for cell, name in zip(cells, names, strict=True):
        if form == "fused" and not doubles.isdisjoint(claims[name].states):
            raise StructureError(
                f"--form fused: {cell.kind} '{name}' computes in float64, for which onnxruntime has no operator; leave "
                "--form out"
            )
        functions = [str(each) for each in cell.functions or ()]
        claims[name].activations[:] = [] if functions == list(DEFAULTS[cell.kind]) else functions
        claims[name].linear_before_reset = cell.linear_before_reset
    hide(model, [gate.output for gate in spec.gates])
    del spec.gates[:]
    if form == "gates":
        _show(model, spec, cells, names)
    else:
        _fuse(model, spec, cells, names)
    common.RemoveUnusedNodesPass()(model)
    spec.stored_fingerprint = stored_fingerprint(model)


def _show(model: ir.Model, spec: pb.ModelSpec, cells: Sequence[FoundCell], names: Sequence[str]) -> None:
    values: dict[str, ir.Value] = {}
    gates: list[pb.GateSpec] = []
    for cell, name in zip(cells, names, strict=True):
        found = {symbol: gate.activation for symbol, gate in cell.gates.items()}
        if cell.operator is not None:
            found = dict(unfuse(model, cell.operator.node, name).gates)
            spec.source.rewritten.append(f"{cell.kind} '{name}' to its equations")
        for role in OF_CELL[cell.kind]:
            value = found[role.symbol]
            if value is None:
                continue  # a forget gate that is 1 - i, and that nothing computes
            output = f"{name}.{role.name}"
            values[output] = value
            gates.append(
                pb.GateSpec(name=output if len(cells) > 1 else role.name, symbol=role.symbol, output=output, cell=name)
            )
    shown = show(model, spec, values)
    for gate in gates:
        gate.shape.extend(shown[gate.output].shape)
    spec.gates.extend(gates)
    spec.form = pb.FORM_GATES


def _fuse(model: ir.Model, spec: pb.ModelSpec, cells: Sequence[FoundCell], names: Sequence[str]) -> None:
    common.ShapeInferencePass()(model)
    done = []
    # From the last: what a cell is given stays then what was found.
    for cell, name in reversed(list(zip(cells, names, strict=True))):
        if cell.operator is None:
            done.append(fuse_cell(model, cell, name))
    spec.source.rewritten.extend(reversed(done))
    spec.form = pb.FORM_FUSED


def _matched(cells: Sequence[FoundCell], spec: pb.ModelSpec) -> list[str]:
    """The name of each cell in the spec, which gets those that it has not."""
    said = [each for each in spec.cells if each.kind != pb.CELL_KIND_RNN]
    by_name = {each.name for each in said}
    if all(cell.name in by_name for cell in cells):
        return [cell.name for cell in cells]
    if [(each.kind, each.hidden) for each in said] == [(KINDS[cell.kind], cell.hidden) for cell in cells]:
        return [each.name for each in said]
    taken = {each.name for each in spec.cells}
    names = []
    for cell in cells:
        name = cell.name
        if name not in by_name:
            while name in taken:
                name += "_"
            spec.cells.append(
                pb.CellSpec(
                    name=name,
                    kind=KINDS[cell.kind],
                    hidden=cell.hidden,
                    linear_before_reset=cell.linear_before_reset,
                )
            )
        taken.add(name)
        names.append(name)
    return names
