"""What was found of anybody's file, printed."""

from collections.abc import Iterator
from typing import Any

import onnx_ir as ir
from google.protobuf import json_format

from gatestream.export.drawing.findings import Findings
from gatestream.export.drawing.text import length, state, table, tensor
from gatestream.export.finder.cells import FoundCell
from gatestream.export.finder.structure import Weight
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.roles import OF_CELL


def as_text(findings: Findings) -> str:
    """For a person."""
    return "\n".join(_lines(findings)) + "\n"


def as_json(findings: Findings) -> dict[str, Any]:
    """For a program: the spec, where there is one, the cells and the checks."""
    return {
        "file": str(findings.path),
        "bytes": findings.size,
        "spec": None if findings.spec is None else json_format.MessageToDict(findings.spec),
        "cells": [
            {
                "name": cell.name,
                "kind": cell.kind,
                "hidden": cell.hidden,
                "where": cell.where,
                "equations": equations(cell),
                "x": _named(cell.x),
                "h": [_named(cell.h), _named(cell.h_next)],
                **({"c": [_named(cell.c), _named(cell.c_next)]} if cell.kind == "LSTM" else {}),
                "gates": {
                    role.symbol: {
                        "name": role.name,
                        "activation": _named(cell.gates[role.symbol].activation),
                        "function": str(cell.gates[role.symbol].function),
                        "output": findings.outputs(cell).get(role.symbol, ""),
                        **{
                            name: {
                                "initializer": weight.initializer,
                                "rows": weight.rows,
                                "shape": list(weight.shape),
                                "dtype": weight.dtype,
                            }
                            for name, weight in cell.gates[role.symbol].weights.items()
                        },
                    }
                    for role in OF_CELL[cell.kind]
                },
            }
            for cell in findings.cells
        ],
        "checks": {check.name: check.detail for check in findings.checks},
    }


def equations(cell: FoundCell) -> str:
    """What a cell computes, in the symbols of its gates."""
    held = f", sums held within {cell.clip:g}" if cell.clip is not None else ""
    if cell.kind == "GRU":
        h = "h' = z * n + (1 - z) * h" if cell.complement else "h' = (1 - z) * n + z * h"
        where = "behind" if cell.linear_before_reset else "before"
        return f"{h}, r applied {where} the recurrent product{held}"
    if cell.kind == "LSTM":
        f = ", f = 1 - i" if cell.coupled else ""
        squash = str(cell.squash).lower() if str(cell.squash) == "Tanh" else cell.squash
        return f"c' = f * c + i * g, h' = o * {squash}(c'){f}{held}"
    return f"h' = {str(cell.gates['n'].function).lower()}(W x + R h + b){held}"


def _lines(findings: Findings) -> Iterator[str]:
    spec = findings.spec
    if spec is None:
        opset = findings.model.opset_imports.get("", 0)
        producer = " ".join(filter(None, (findings.model.producer_name, findings.model.producer_version)))
        yield f"{findings.path.name}: no artifact; `gatestream adopt` makes one of it, if it can be streamed"
        yield f"  file     {findings.path}, {findings.size:,} bytes"
        yield f"  made by  {producer or 'not said'}; read at opset {opset}"
        yield ""
        yield from table("inputs", [_value(value) for value in findings.model.graph.inputs])
        yield from table("outputs", [_value(value) for value in findings.model.graph.outputs])
    else:
        form = pb.Form.Name(spec.form).removeprefix("FORM_").lower()
        yield f"{spec.name}, version {spec.version}: {spec.description or 'no description'}"
        yield f"  file     {findings.path}, {findings.size:,} bytes"
        form = "as in the source" if form == "unspecified" else form
        yield f"  form     {form}, contract {spec.contract}, opset {spec.opset}"
        yield f"  source   {', '.join(filter(None, (spec.source.name, spec.source.producer))) or 'not said'}"
        yield f"  weights  {spec.weights_fingerprint}"
        yield ""
        yield from table("inputs", [tensor(each) for each in spec.inputs] + length(spec))
        if spec.states:
            yield from table("states", [state(each) for each in spec.states])
        yield from table("outputs", [tensor(each) for each in spec.outputs])
    if not findings.cells:
        yield "data flow shows no LSTM, no GRU and no RNN"
    for cell in findings.cells:
        yield from _cell(cell, findings)
    if findings.checks:
        yield from table("checked now", [(check.name, check.detail) for check in findings.checks], end=False)


def _cell(cell: FoundCell, findings: Findings) -> Iterator[str]:
    yield f"{cell.kind} {cell.hidden} '{cell.name}', {cell.where}"
    yield f"  {equations(cell)}"
    ends = f"  x {_named(cell.x)}; h {_named(cell.h)} -> {_named(cell.h_next)}"
    yield ends + (f"; c {_named(cell.c)} -> {_named(cell.c_next)}" if cell.kind == "LSTM" else "")
    if cell.alike:
        yield "  x and h are of one size and take equal parts: data flow does not tell which is which"
    outputs = findings.outputs(cell)
    rows = []
    for role in OF_CELL[cell.kind]:
        gate = cell.gates[role.symbol]
        said = [f"{name} {_weight(weight)}" for name, weight in gate.weights.items()]
        where = _named(gate.activation) if gate.activation is not None else "inside the operator"
        where = f"-> {outputs[role.symbol]}" if role.symbol in outputs else where
        function = "1 - i" if gate.W is None else str(gate.function)
        rows.append([f"{role.symbol}  {role.name}", function, *said, where])
    width = max((len(row) for row in rows), default=0)
    if rows:
        yield from table("  gates", [row[:-1] + [""] * (width - len(row)) + row[-1:] for row in rows])
    else:
        yield ""


def _named(value: ir.Value | None) -> str:
    return "nothing" if value is None else value.name or "unnamed"


def _weight(weight: Weight) -> str:
    return f"{weight} {list(weight.shape)}" + ("" if weight.dtype == "float32" else f" {weight.dtype}")


def _value(value: ir.Value) -> tuple[str, str, str]:
    shape = ", ".join(str(dim) for dim in value.shape) if value.shape is not None else "?"
    return _named(value), value.dtype.name.lower() if value.dtype is not None else "?", f"[{shape}]"
