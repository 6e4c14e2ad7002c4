"""What data flow shows of a model of contract 2, against what its spec says."""

from collections.abc import Sequence

import onnx_ir as ir

from gatestream.export.errors import StructureError
from gatestream.export.finder.cells import FoundCell
from gatestream.export.finder.loop import read
from gatestream.export.finder.operators import DEFAULTS
from gatestream.export.finder.scopes import Scopes
from gatestream.export.finder.survey import survey
from gatestream.export.finder.ways import beginnings, endings
from gatestream.export.graph.flow import label
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.roles import OF_CELL

KINDS = {"LSTM": pb.CELL_KIND_LSTM, "GRU": pb.CELL_KIND_GRU, "RNN": pb.CELL_KIND_RNN}

_EQUATIONS = {
    pb.CELL_KIND_LSTM: "c' = f * c + i * g and h' = o * tanh(c')",
    pb.CELL_KIND_GRU: "h' = (1 - z) * n + z * h",
}


def check_claims(model: ir.Model, spec: pb.ModelSpec) -> str:
    """The spec describes the cells and gates that are there: each gate put out is the one that it is called.

    A model that was adopted as it is, with no gates put out, may have cells that its spec does not list.

    Returns:
        One line on what was found.

    Raises:
        StructureError: the first thing in which they differ.
    """
    cells = [cell for cell in survey(model, [state.input for state in spec.states]) if cell.kind != "RNN"]
    said = [each for each in spec.cells if each.kind != pb.CELL_KIND_RNN]
    strict = spec.form != pb.FORM_UNSPECIFIED or bool(spec.gates)
    if strict:
        pairs = _matched(model, spec, cells, said)
        scopes = Scopes(model)
        for found, claim in pairs:
            _check_cell(found, claim)
            _check_names(model, found, claim, said)
        _check_form(spec, cells)
        _check_gates(scopes, model, spec, {claim.name: found for found, claim in pairs})
        for found, claim in pairs:
            _check_loop(scopes, found, claim, spec)
            _check_states(scopes, model, [each for each, _ in pairs], found, claim, spec)
    if not cells:
        return "no LSTM and no GRU was found"
    listed = ", ".join(f"{cell.kind} {cell.hidden} '{cell.name}' ({cell.where})" for cell in cells)
    return f"{listed}; {len(spec.gates) or 'no'} gates put out"


def _matched(
    model: ir.Model, spec: pb.ModelSpec, cells: Sequence[FoundCell], said: Sequence[pb.CellSpec]
) -> list[tuple[FoundCell, pb.CellSpec]]:
    by_name = {cell.name: cell for cell in cells}
    if len(cells) == len(said):
        if all(claim.name in by_name for claim in said):
            return [(by_name[claim.name], claim) for claim in said]
        if [KINDS[cell.kind] for cell in cells] == [claim.kind for claim in said]:
            return list(zip(cells, said, strict=True))
    scopes = Scopes(model)
    outputs = {value.name: value for value in model.graph.outputs}
    for claim in said:
        if claim.name in by_name or spec.form != pb.FORM_GATES:
            continue
        shown = [
            f"{gate.symbol} is {label(scopes.origin(outputs[gate.output]))}"
            for gate in spec.gates
            if gate.cell == claim.name and gate.output in outputs
        ]
        raise StructureError(
            f"data flow shows no {_kind(claim)} where the spec says cell '{claim.name}' is: expected "
            f"{_EQUATIONS[claim.kind]}, each gate a nonlinearity of W x + R h + b; of its outputs "
            f"{', '.join(shown) or 'none is there'}"
        )
    found = ", ".join(f"{cell.kind} {cell.hidden}" for cell in cells) or "none"
    raise StructureError(
        f"cells: data flow shows {found}, the spec says {', '.join(f'{_kind(c)} {c.hidden}' for c in said) or 'none'}"
    )


def _kind(claim: pb.CellSpec) -> str:
    return pb.CellKind.Name(claim.kind).removeprefix("CELL_KIND_")


def _check_cell(found: FoundCell, claim: pb.CellSpec) -> None:
    _same(claim, "kind", found.kind, _kind(claim))
    _same(claim, "hidden", found.hidden, claim.hidden)
    if found.kind == "GRU":
        where = {True: "behind the recurrent product", False: "before the recurrent product"}
        _same(claim, "the reset gate", where[found.linear_before_reset], where[claim.linear_before_reset])
        if found.complement:
            z = found.gates["z"].activation
            raise StructureError(
                f"cell '{claim.name}': {label(z)}, the update gate z, lets the candidate through and 1 - z the state; "
                "expected h' = (1 - z) * n + z * h"
            )
    if found.operator is None:
        first, second, *third = list(claim.activations) or DEFAULTS[found.kind]
        for role in OF_CELL[found.kind]:
            gate, expected = found.gates[role.symbol], second if role.symbol in "gn" else first
            if str(gate.function) != expected:
                raise StructureError(
                    f"cell '{claim.name}', {role.name} gate {role.symbol}: {label(gate.activation)} is made by "
                    f"{gate.function}, the spec says {expected}"
                )
        if third:
            _same(claim, "what is applied to c'", str(found.squash), third[0])


def _same(claim: pb.CellSpec, what: str, found: object, said: object) -> None:
    if found != said:
        raise StructureError(f"cell '{claim.name}': {what}: data flow shows {found}, the spec says {said}")


def _check_names(model: ir.Model, found: FoundCell, claim: pb.CellSpec, said: Sequence[pb.CellSpec]) -> None:
    """Where weights are named after gates, each gate is fed by its own, by all of them and by no others."""
    if found.operator is not None:
        return
    roles = OF_CELL[found.kind]
    named = {f"{each.name}.{role.module}." for each in said for role in OF_CELL[_kind(each)]}
    own = any(name.startswith(f"{claim.name}.{role.module}.") for role in roles for name in model.graph.initializers)
    for role in roles:
        weights = found.gates[role.symbol].weights
        for parameter in ("W", "R", "b", "b_R", "p"):
            expected = f"{claim.name}.{role.module}.{parameter}"
            weight = weights.get(parameter)
            shown = str(weight) if weight is not None else "none"
            foreign = weight is not None and (own or any(shown.startswith(each) for each in named))
            if (foreign or expected in model.graph.initializers) and shown != expected:
                raise StructureError(
                    f"cell '{claim.name}', {role.name} gate {role.symbol}: data flow shows '{shown}' as its "
                    f"{parameter}, expected '{expected}'"
                )


def _check_loop(scopes: Scopes, found: FoundCell, claim: pb.CellSpec, spec: pb.ModelSpec) -> None:
    """A Scan that was written for a cell computes it and nothing else, up to the length of each row."""
    own = all(
        weight.initializer.startswith(f"{claim.name}.")
        for gate in found.gates.values()
        for weight in gate.weights.values()
    )
    if found.operator is not None or not own or found.holder is None or found.holder.name != claim.name:
        return
    loop = read(scopes, found)
    if loop.length is not None and loop.length.is_graph_input() and loop.length.name != spec.length_input:
        raise StructureError(
            f"cell '{claim.name}': rows end by {label(loop.length)}, the spec says by '{spec.length_input}'"
        )


def _check_states(
    scopes: Scopes,
    model: ir.Model,
    cells: Sequence[FoundCell],
    found: FoundCell,
    claim: pb.CellSpec,
    spec: pb.ModelSpec,
) -> None:
    """Each state starts from the input that the spec says, and ends in its output, and not in those of another."""
    kinds = {"hidden": (found.h, found.h_next), "cell": (found.c, found.c_next)}
    said = list(claim.states)
    if len(said) == 1 and found.kind == "LSTM":
        said *= 2  # both lie in one tensor
    states = {state.input: state for state in spec.states}
    inputs = {value: value.name for value in model.graph.inputs if value.name in states}
    outputs = {value.name: value for value in model.graph.outputs}
    lasts = [value for cell in cells for value in (cell.h_next, cell.c_next) if value is not None]
    for name, (kind, (before, after)) in zip(said, kinds.items(), strict=False):
        if before is None or after is None or name not in states:
            continue
        starts = [inputs[value] for value in beginnings(scopes, before) if value in inputs]
        if starts and name not in starts:
            raise StructureError(
                f"cell '{claim.name}': the {kind} state starts from '{starts[0]}', the spec says from '{name}'"
            )
        output = outputs.get(states[name].output)
        ends = endings(scopes, output) if output is not None else set()
        if after not in ends and any(value in ends for value in lasts):
            other = next(value for value in lasts if value in ends)
            raise StructureError(
                f"cell '{claim.name}': output '{states[name].output}' is made of {label(other)}; expected its {kind} "
                f"state {label(after)}"
            )


def _check_form(spec: pb.ModelSpec, cells: Sequence[FoundCell]) -> None:
    operators = [cell.name for cell in cells if cell.operator is not None]
    if spec.form == pb.FORM_GATES and operators:
        raise StructureError(f"form: '{operators[0]}' is an operator still, the spec says gates")
    if spec.form == pb.FORM_FUSED and len(operators) < len(cells):
        written = next(cell.name for cell in cells if cell.operator is None)
        raise StructureError(f"form: '{written}' is written out in equations, the spec says fused")


def _check_gates(scopes: Scopes, model: ir.Model, spec: pb.ModelSpec, cells: dict[str, FoundCell]) -> None:
    """Each output with a gate's activations comes from that gate."""
    outputs = {value.name: value for value in model.graph.outputs}
    parts = {
        gate.activation: (name, symbol)
        for name, cell in cells.items()
        for symbol, gate in cell.gates.items()
        if gate.activation is not None
    }
    for gate in spec.gates:
        if gate.cell not in cells:
            raise StructureError(f"gate '{gate.name}' is of cell '{gate.cell}', which the spec does not list")
        names = {role.symbol: role.name for role in OF_CELL[cells[gate.cell].kind]}
        if names.get(gate.symbol) != gate.name.removeprefix(f"{gate.cell}."):
            raise StructureError(f"gate '{gate.name}' has symbol {gate.symbol}; expected one of {names}")
        if gate.output not in outputs:
            raise StructureError(f"gate '{gate.name}': there is no output '{gate.output}'")
        source = scopes.origin(outputs[gate.output])
        name, symbol = parts.get(source, ("", ""))
        if (name, symbol) != (gate.cell, gate.symbol):
            found = f"the {symbol} of cell '{name}'" if name else "no gate"
            raise StructureError(
                f"activations of gate '{gate.name}': output '{gate.output}' is made of {label(source)}, which data "
                f"flow shows to be {found}, and not the {gate.symbol} of cell '{gate.cell}'"
            )
