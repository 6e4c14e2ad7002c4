"""An inspection, printed."""

from collections.abc import Iterator, Sequence
from typing import Any

from google.protobuf import json_format

from gatestream.export.drawing.inspection import Inspection
from gatestream.export.finder.structure import Weight
from gatestream.protos.dtypes import DTYPES
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.roles import BY_SYMBOL, ROLES

_SHOWN = 12
"""Names of a vocabulary or of columns, before the rest is only counted."""


def as_text(inspection: Inspection) -> str:
    """For a person: everything, about a screen long."""
    return "\n".join(_lines(inspection)) + "\n"


def as_json(inspection: Inspection) -> dict[str, Any]:
    """For a program: the spec, the cells and the checks."""
    structure = inspection.structure
    return {
        "file": str(inspection.artifact.path),
        "bytes": inspection.artifact.size,
        "spec": json_format.MessageToDict(inspection.artifact.spec),
        "cells": [
            {
                "node": cell.node,
                "x": cell.x,
                "h": [cell.h, cell.h_next],
                "c": [cell.c, cell.c_next],
                "gates": {
                    symbol: {
                        "activation": gate.activation,
                        "output": structure.activations.get(symbol, ""),
                        **{
                            name: {
                                "initializer": weight.initializer,
                                "rows": weight.rows,
                                "shape": list(weight.shape),
                                "dtype": weight.dtype,
                            }
                            for name, weight in (("W", gate.W), ("R", gate.R), ("b", gate.b))
                        },
                    }
                    for symbol, gate in ((role.symbol, cell.gates[role.symbol]) for role in ROLES)
                },
            }
            for cell in structure.cells
        ],
        "checks": {check.name: check.detail for check in inspection.report.checks},
    }


def _lines(inspection: Inspection) -> Iterator[str]:
    artifact, spec = inspection.artifact, inspection.artifact.spec
    form = inspection.report.form
    yield f"{spec.name}, version {spec.version}: {spec.description}"
    yield f"  file     {artifact.path}, {artifact.size:,} bytes"
    yield f"  form     {form}, contract {spec.contract}, opset {spec.opset}"
    yield f"  made by  gatestream {spec.gatestream_version}, torch {spec.torch_version}"
    yield f"  task     {spec.task or 'not said'}"
    yield f"  weights  {inspection.report.weights}, {spec.weights_fingerprint}"
    yield ""
    yield from table("inputs", [tensor(each) for each in spec.inputs] + length(spec))
    yield from table("states", [state(each) for each in spec.states])
    yield from table("outputs", [tensor(each) for each in spec.outputs])
    yield from _cells(inspection)
    yield from table("exported", [_figure(figure) for figure in spec.parity])
    yield from table("checked now", [(check.name, check.detail) for check in inspection.report.checks], end=False)


def table(title: str, rows: Sequence[Sequence[str]], end: bool = True) -> Iterator[str]:
    """Rows under a title, their columns aligned, and unless it is the `end` an empty line."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    yield title
    for row in rows:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    if end:
        yield ""


def tensor(spec: pb.TensorSpec) -> tuple[str, str, str, str]:
    """A row for an input or an output."""
    shape = ", ".join(["batch", "time", *map(str, spec.shape)])
    names = [repr(token)[1:-1] for token in spec.vocabulary] or list(spec.columns)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    notes = [" ".join(names[:_SHOWN]) + more] if names else []
    if spec.mean:
        notes.append("raw units, normalised in the graph")
    return spec.name, DTYPES[spec.dtype].name, f"[{shape}]", "; ".join(notes)


def length(spec: pb.ModelSpec) -> list[tuple[str, str, str, str]]:
    """A row for the input that says how many steps of each row are real, where there is one."""
    return [(spec.length_input, "int32", "[batch]", "real steps of each row")] if spec.length_input else []


def state(spec: pb.StateSpec) -> tuple[str, str, str, str]:
    """A row for a spec."""
    shape = ", ".join(["batch", *map(str, spec.shape)])
    value = "values" if spec.initial_values else f"{spec.initial:g}"
    if spec.role == pb.STATE_ROLE_CONSTANT:
        start = "set by every session" if spec.required else f"a session may set it; else {value}"
    else:
        start = f"starts from {value}" if spec.initial_values else f"starts at {value}"
    return f"{spec.input} -> {spec.output}", DTYPES[spec.dtype].name, f"[{shape}]", start


def _cells(inspection: Inspection) -> Iterator[str]:
    """The gates, and what is below and above them, as data flow shows it."""
    structure = inspection.structure
    yield f"found by data flow: {structure.cells[0].x} from {', '.join(structure.below)}"
    yield f"{inspection.artifact.spec.outputs[0].name} from {structure.cells[-1].h_next}, {', '.join(structure.above)}"
    yield ""
    for layer, cell in enumerate(structure.cells):
        rows = []
        for role in ROLES:
            gate = cell.gates[role.symbol]
            output = structure.activations.get(role.symbol)
            rows.append(
                (
                    f"{role.symbol}  {BY_SYMBOL[role.symbol].name}",
                    *(_weight(name, weight) for name, weight in (("W", gate.W), ("R", gate.R), ("b", gate.b))),
                    f"-> {output}[:, :, {layer}]" if output else "inside the operator",
                )
            )
        yield from table(f"layer {layer}, in '{cell.node}': {_equations(inspection, layer)}", rows)


def _equations(inspection: Inspection, layer: int) -> str:
    cell = inspection.structure.cells[layer]
    if inspection.structure.fused:
        return "ONNX LSTM, default activations"
    i, f, g, o = (cell.gates[symbol].activation for symbol in "ifgo")
    return f"{cell.c_next} = {f} * {cell.c} + {i} * {g}, {cell.h_next} = {o} * tanh({cell.c_next})"


def _weight(name: str, weight: Weight) -> str:
    return f"{name} {weight} {list(weight.shape)}" + ("" if weight.dtype == "float32" else f" {weight.dtype}")


def _figure(figure: pb.ParityFigure) -> tuple[str, str, str]:
    off = f"at most {figure.max_abs_difference:.1e} off"
    # How near weights in fewer bits are to the network is for its user to judge.
    close = "exact" if figure.exact else off if figure.reference == "float32" else f"close, {off}"
    return figure.tensor, f"against {figure.reference} over {figure.steps} steps", close
