"""What data flow shows against what the spec says."""

from collections.abc import Sequence

from gatestream.export.errors import StructureError
from gatestream.export.finder.structure import Structure
from gatestream.export.formats import Precision, precision_of
from gatestream.export.graph.initializers import TRANSPOSED
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.roles import BY_SYMBOL, ONNX_ORDER_NAME, ROLES


def check_agreement(structure: Structure, spec: pb.ModelSpec) -> str:
    """The spec describes the structure that was found: form, sizes, states, gates and the names of weights.

    Returns:
        One line on what was found.

    Raises:
        StructureError: the first thing in which they differ.
    """
    _check_sizes(structure, spec)
    _check_states(structure, spec)
    _check_gates(structure, spec)
    _check_weights(structure, precision_of(spec))
    form = "LSTM operators" if structure.fused else "equations"
    precision = precision_of(spec)
    stored = "" if precision == "float32" else f", weights {precision}"
    return f"{spec.layers} x {spec.hidden}, as {form}, four gates in each layer{stored}"


def _same(what: str, found: object, said: object) -> None:
    if found != said:
        raise StructureError(f"{what}: data flow shows {found}, the spec says {said}")


def _check_sizes(structure: Structure, spec: pb.ModelSpec) -> None:
    _same("form", "fused" if structure.fused else "gates", "fused" if spec.form == pb.FORM_FUSED else "gates")
    _same("cell", "LSTM", pb.CellKind.Name(spec.cell).removeprefix("CELL_KIND_"))
    _same("layers", len(structure.cells), spec.layers)
    for layer, cell in enumerate(structure.cells):
        _same(f"hidden of layer {layer}", len(cell.gates["i"].b.array), spec.hidden)
    _same("length", structure.length, spec.length_input)


def _check_states(structure: Structure, spec: pb.ModelSpec) -> None:
    """By contract the first state is the hidden, the second the cell state."""
    _same("number of states", 2, len(spec.states))
    for kind, found, state in zip(("hidden", "cell"), (structure.hidden, structure.cell), spec.states, strict=True):
        _same(f"the {kind} state comes in as and goes out as", found, (state.input, state.output))


def _check_gates(structure: Structure, spec: pb.ModelSpec) -> None:
    expected: Sequence[tuple[str, str]] = () if structure.fused else [(role.symbol, role.name) for role in ROLES]
    _same("gates", list(expected), [(gate.symbol, gate.name) for gate in spec.gates])
    for gate in spec.gates:
        found = structure.activations.get(gate.symbol, "no output")
        _same(f"activations of the {gate.name} gate {gate.symbol}", found, gate.output)
    _same("packed gate order", ONNX_ORDER_NAME if structure.fused else "", spec.packed_gate_order)


def _check_weights(structure: Structure, precision: Precision) -> None:
    """Each gate is fed by the initializers that are named after it, and that no other gate is fed by."""
    for layer, cell in enumerate(structure.cells):
        for symbol, gate in cell.gates.items():
            role = BY_SYMBOL[symbol]
            for parameter, weight in (("W", gate.W), ("R", gate.R), ("b", gate.b)):
                own = f"lstm.{parameter.upper()}" if structure.fused else f"{role.module}.{parameter}"
                dtype = "float32" if parameter == "b" else precision
                if weight.dtype != dtype:
                    raise StructureError(f"'{weight.initializer}' is {weight.dtype}, the spec says weights {precision}")
                expected = f"cells.{layer}.{own}" + (TRANSPOSED if dtype == "int8" else "")
                if weight.initializer != expected:
                    raise StructureError(
                        f"layer {layer}, {role.name} gate {symbol}: data flow shows '{weight.initializer}' as its "
                        f"{parameter}, expected '{expected}'"
                    )
