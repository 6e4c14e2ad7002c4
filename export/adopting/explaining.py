"""Where steps cease to add up to the whole: the first tensor of the graph that differs, and the node that makes it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir

from gatestream.export.adopting.probing import Array, Probe
from gatestream.export.adopting.slots import describe, is_recurrent
from gatestream.export.adopting.states import Pair

TOLERANCE: Final = 1e-3
"""Of the largest number of a tensor, and of 1: more than float32 loses, less than what another step changes."""


@dataclass(frozen=True, slots=True)
class Parting:
    """The first difference.

    Attributes:
        node: that makes it, of inputs that agree.
        tensor: its output.
        axis: along which the steps lie; None: there are none, it is one number of the run.
        step: of the run, counted from 0.
        apart: by how much; infinite: it has not even the length of the whole.
        carried: the states that were carried.
    """

    node: ir.Node
    tensor: str
    axis: int | None
    step: int
    apart: float
    carried: tuple[str, ...]

    def __str__(self) -> str:
        where = f"along axis {self.axis} at step {self.step}" if self.axis is not None else "at the end of the run"
        carried = ", ".join(f"'{name}'" for name in self.carried) or "none"
        if self.apart == np.inf:
            return (
                f"{describe(self.node)} makes '{self.tensor}', which has in two halves another number of steps than in "
                f"the whole: some are lost or made up. States that are carried: {carried}; export the model with the "
                "last steps that this node reads as an input and an output"
            )
        if is_recurrent(self.node):
            why = "it does not start from where the run before it ended"
        else:
            why = "it looks at other steps than its own, or adds up over all of a run"
        return (
            f"{describe(self.node)} makes '{self.tensor}', which is the first tensor to differ {where}, by "
            f"{self.apart:.2g}, its inputs being equal: {why}. States that are carried: {carried}; export the model "
            "with what this node keeps as an input and an output"
        )


def explain(
    model: ir.Model,
    pairs: Sequence[Pair],
    feed: Mapping[str, Array],
    time: Mapping[str, int],
    tolerance: float = TOLERANCE,
) -> Parting | None:
    """Run a graph whole and in two halves, its states carried, and compare all that its nodes make.

    Args:
        model: with its states as inputs and outputs.
        pairs: these.
        feed: every input: whole, and of states what they start from.
        time: of the inputs that have steps, along which axis.
        tolerance: relative to a tensor's largest number, and to 1.

    Returns:
        None: nothing differs.

    Raises:
        ProbeError: onnxruntime cannot run it.
    """
    values = [value for node in model.graph for value in node.outputs if value.name]
    probe = Probe(model, values, optimised=False)
    whole = probe.run(feed)
    steps = min(feed[name].shape[axis] for name, axis in time.items())
    parts = []
    states: dict[str, Array] = {}
    for at, end in ((0, steps // 2), (steps // 2, steps)):
        piece = {name: feed[name].take(range(at, end), axis) for name, axis in time.items()}
        part = probe.run({**feed, **piece, **states})
        states = {str(pair.input.name): part[str(pair.output.name)] for pair in pairs}
        parts.append(part)
    carried = tuple(str(pair.input.name) for pair in pairs)
    unlike: dict[ir.Value, Parting] = {}  # of other lengths than the whole, by the first node that made them so
    for node in model.graph:
        origin = next((unlike[value] for value in node.inputs if value in unlike), None)
        for value in node.outputs:
            name = str(value.name)
            if not value.name or not isinstance(whole[name], np.ndarray) or whole[name].dtype.kind != "f":
                continue
            pieces = [part[name] for part in parts]
            if _is_unlike(whole[name], pieces):
                unlike[value] = origin or Parting(node, name, None, steps // 2, np.inf, carried)
            elif (found := _compared(whole[name], pieces, steps, tolerance)) is not None:
                axis, step, apart = found
                return origin or Parting(node, name, axis, step, apart, carried)
    return next((unlike[value] for value in model.graph.outputs if value in unlike), None)


def _is_unlike(whole: Array, parts: Sequence[Array]) -> bool:
    """Whether the parts are neither of the whole's shape nor the whole when they are joined: a cache is in front."""
    shapes = [part.shape for part in parts]
    return _axis(whole.shape, shapes) is None and any(shape != whole.shape for shape in shapes)


def _compared(
    whole: Array, parts: Sequence[Array], steps: int, tolerance: float
) -> tuple[int | None, int, float] | None:
    """Axis, step and size of the first difference; None: there is none."""
    bound = tolerance * max(1.0, float(np.abs(whole).max(initial=0)))
    axis = _axis(whole.shape, [part.shape for part in parts])
    if axis is not None:
        apart = np.abs(np.concatenate(parts, axis).astype(np.float64) - whole.astype(np.float64))
        along = apart.max(axis=tuple(k for k in range(apart.ndim) if k != axis), initial=0)
        wrong = np.flatnonzero(~(along <= bound))
        if not len(wrong):
            return None
        return axis, int(wrong[0]) * steps // whole.shape[axis], float(along[wrong[0]])
    # What is made of the state that a run starts from is that of the first part; what it ends as, of the last.
    least = min(float(np.abs(part.astype(np.float64) - whole).max(initial=0)) for part in (parts[0], parts[-1]))
    return (None, steps - 1, least) if not least <= bound else None


def _axis(whole: tuple[int, ...], parts: Sequence[tuple[int, ...]]) -> int | None:
    """The axis along which the parts are the whole, one after another."""
    for axis in range(len(whole)):
        if all(len(part) == len(whole) for part in parts) and sum(part[axis] for part in parts) == whole[axis]:
            others = [[size for k, size in enumerate(shape) if k != axis] for shape in (whole, *parts)]
            if all(other == others[0] for other in others):
                return axis
    return None
