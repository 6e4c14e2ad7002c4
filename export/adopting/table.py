"""What was found of a file, what was done to it and what was proved, as a table for a terminal or a log."""

from collections.abc import Sequence

from gatestream.export.proof.report import Report
from gatestream.files.names import shown
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

_ROLES = {pb.STATE_ROLE_HIDDEN: "h", pb.STATE_ROLE_CELL: "c", pb.STATE_ROLE_CONTEXT: "context"}


def lines(spec: pb.ModelSpec, report: Report) -> list[str]:
    """One row for each tensor, each rewriting and each check.

    Args:
        spec: of the artifact.
        report: of its proof.
    """
    source = spec.source
    made = f"{shown(source.producer)}, " if source.producer else ""
    rows: list[tuple[str, ...]] = [("file", shown(source.name), f"{made}opset {source.opset}", "", "")]
    rows += [_row(spec, tensor) for tensor in source.tensors]
    found = _aligned(rows)
    found += [f"rewritten  {shown(line)}" for line in source.rewritten] or ["rewritten  nothing"]
    found += [f"proved     {check.name}: {shown(check.detail)}" for check in report.checks]
    found += [
        f"unproved   '{shown(state.input)}' -> '{shown(state.output)}': as --state says, and nothing else shows it"
        for state in unproved(spec)
    ]
    worst = max(report.figures, key=lambda figure: figure.max_abs_difference, default=None)
    if worst is not None:
        found.append(
            f"proved     largest difference: {worst.max_abs_difference:.2g}, '{shown(worst.tensor)}' to "
            f"{worst.reference} {worst.case}"
        )
    return found


def unproved(spec: pb.ModelSpec) -> list[pb.StateSpec]:
    """The states whose pairing was given, and told by nothing in the proof."""
    return [state for state in spec.states if state.input in spec.promises.unproved_states]


def _row(spec: pb.ModelSpec, tensor: pb.SourceTensor) -> tuple[str, ...]:
    states = {state.input: state for state in spec.states}
    named = {each.name: each for each in (*spec.inputs, *spec.outputs)}
    name = shown(tensor.name)
    what = axes = ""
    shape = "[" + ", ".join("?" if size < 0 else str(size) for size in tensor.shape) + "]"
    if state := states.get(tensor.becomes):
        name += f" -> {shown(state.output)}"
        role = _ROLES.get(state.role, "")
        what = f"{_dtype(state.dtype)} {list(state.shape)}" + (f", {role}" if role else "") + _start(state)
    elif column := named.get(tensor.becomes):
        what = f"{_dtype(column.dtype)} {list(column.shape)}"
        what += f", a window of {column.window}" if column.window else ""
        what += f", from 0 to below {column.limit}" if column.limit else ""
    if tensor.becomes:
        parts = [f"sessions axis {tensor.batch_axis}"] if tensor.batch_axis >= 0 else ["one session a run"]
        if tensor.role in ("input", "output"):
            parts.append(f"time axis {tensor.time_axis}" if tensor.time_axis >= 0 else "one step a run")
        axes = f"{shape if tensor.shape or tensor.role != 'state' else 'not in the file'} {', '.join(parts)}"
    return tensor.role, name, what, axes, shown(tensor.found)


def _start(state: pb.StateSpec) -> str:
    if state.required:
        return ", every session sets it"
    if state.initial_values:
        return ", starts from values"
    return f", starts at {state.initial:g}"


def _dtype(dtype: pb.DataType) -> str:
    return pb.DataType.Name(dtype).removeprefix("DATA_TYPE_").lower()


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    widths[0] = max(widths[0], len("rewritten"))
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
