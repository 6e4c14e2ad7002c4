"""How every axis in a graph goes with the free sizes of its inputs, found by running it on two sizes of each."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from gatestream.export.adopting.probing import Array, Probe, ProbeError

_SIZES: Final = (4, 16, 64)
"""All free sizes are tried with these, the smallest first: a convolution asks for as much as its kernel."""

_WINDOWS: Final = (256, 512, 1600, 4096)
"""One free size after the other is tried with these, the others being 2: samples come in windows."""

Shapes = Mapping[ir.Value, tuple[int, ...]]


@dataclass(slots=True)
class Growth:
    """Sizes of all tensors of the main graph.

    Attributes:
        sizes: by name, the free sizes of the inputs in the first run. Those that only run together go by the names of
            both.
        first: shapes in that run.
        second: by name, shapes where that size alone is twice as large; a size that cannot be is left out.
    """

    sizes: dict[str, int]
    first: Shapes
    second: dict[str, Shapes] = field(default_factory=dict)

    def of(self, value: ir.Value, axis: int) -> set[str]:
        """The free sizes that an axis grows with."""
        return {name for name in self.second if self._length(value, axis, name)[0]}

    def axes(self, value: ir.Value | None, names: set[str]) -> list[int]:
        """The axes of a tensor that grow with any of some free sizes; none where it has no shape."""
        if value is None or value not in self.first:
            return []
        return [axis for axis in range(len(self.first[value])) if self.of(value, axis) & names]

    def surplus(self, value: ir.Value, axis: int, names: set[str]) -> int:
        """How many more entries an axis has than its growth with a size accounts for: -2 behind a convolution of 3."""
        [name] = sorted(self.of(value, axis) & names)[:1]
        grown, length = self._length(value, axis, name)
        return length - grown

    def _length(self, value: ir.Value, axis: int, name: str) -> tuple[int, int]:
        before, after = self.first.get(value), self.second[name].get(value)
        if before is None or after is None or len(before) != len(after) or axis >= len(before):
            return 0, 0
        return after[axis] - before[axis], before[axis]


def growth(model: ir.Model, values: Sequence[ir.Value] | None = None) -> Growth | None:
    """Run a graph on several sizes.

    Args:
        model: the graph.
        values: what is looked at beside the inputs; None: all that its nodes make.

    Returns:
        None: it has no free sizes, or runs on none that were tried.
    """
    names = list(dict.fromkeys(name for _, _, name in _free(model)))
    if not names:
        return None
    if values is None:
        values = [value for node in model.graph for value in node.outputs if value.name]
    values = [*model.graph.inputs, *values]
    probe = Probe(model, values)

    def shapes(sizes: Mapping[str, int]) -> Shapes | None:
        try:
            found = probe.run(_feed(model, sizes))
        except ProbeError:
            return None
        # A sequence of tensors has no shape.
        return {
            value: found[str(value.name)].shape for value in values if isinstance(found[str(value.name)], np.ndarray)
        }

    for sizes in _attempts(names):
        first = shapes(sizes)
        if first is not None:
            break
    else:
        return None
    grown = Growth(sizes, first)
    stiff = []
    for name in names:
        found = shapes(sizes | {name: 2 * sizes[name]})
        if found is None:
            stiff.append(name)
        else:
            grown.second[name] = found
    # The same axis by two names, in two inputs.
    for a, b in combinations(stiff, 2):
        found = shapes(sizes | {a: 2 * sizes[a], b: 2 * sizes[b]})
        if found is not None:
            grown.second[f"{a}, {b}"] = found
    return grown


def _attempts(names: list[str]) -> Iterator[dict[str, int]]:
    for size in _SIZES:
        yield dict.fromkeys(names, size)
    for size in _WINDOWS:
        for name in names:
            yield dict.fromkeys(names, 2) | {name: size}


def _free(model: ir.Model) -> Iterator[tuple[ir.Value, int, str]]:
    """The axes of inputs that have no size: input, axis, and the name of the size."""
    for value in model.graph.inputs:
        for axis, dim in enumerate(value.shape or ()):
            if not isinstance(dim, int) or dim <= 0:
                name = dim.value if isinstance(dim, ir.SymbolicDim) else None
                yield value, axis, str(name) if name else f"axis {axis} of '{value.name}'"


def _feed(model: ir.Model, sizes: Mapping[str, int]) -> dict[str, Array]:
    """Numbers of no special kind: of whole numbers 1, which is a token, a length and a choice as good as any."""
    names = {(value.name, axis): name for value, axis, name in _free(model)}
    rng = np.random.default_rng(0)
    feed: dict[str, Array] = {}
    for value in model.graph.inputs:
        dims: list[Any] = list(value.shape or ())
        shape = [sizes[names[value.name, k]] if (value.name, k) in names else dim for k, dim in enumerate(dims)]
        dtype = value.dtype.numpy() if value.dtype is not None else np.dtype(np.float32)
        draws = rng.standard_normal(shape) if dtype.kind == "f" else np.ones(shape)
        feed[str(value.name)] = draws.astype(dtype)
    return feed
