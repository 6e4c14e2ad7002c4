"""What a module's `forward` returns: which of it are outputs, which are states, and which of their axes is time."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree  # what torch.export takes results apart with

from gatestream.export.errors import SourceError
from gatestream.export.sources.ports import Port
from gatestream.export.sources.recurrent import Call, Recurrent
from gatestream.export.sources.signature import key


@dataclass(frozen=True, slots=True)
class Leaf:
    """A tensor somewhere in what `forward` returns.

    Attributes:
        index: among all leaves, tensors or not.
        name: where it lies: "0.1", "logits"; empty: it is all that there is.
        tensor: itself.
    """

    index: int
    name: str
    tensor: Tensor


@dataclass(frozen=True, slots=True)
class Output:
    """A tensor of each step.

    Attributes:
        index: among all leaves of what `forward` returns.
        port: its name and where its axes are.
    """

    index: int
    port: Port


def plain(returned: Any) -> Any:
    """What `forward` returned, a dataclass that torch does not take apart as a dict of its fields."""
    if is_dataclass(returned) and not isinstance(returned, type) and pytree.tree_is_leaf(returned):
        return {each.name: plain(getattr(returned, each.name)) for each in fields(returned)}
    return returned


def leaves(returned: Any) -> list[Leaf]:
    """The tensors in what `forward` returned."""
    found = pytree.tree_flatten_with_path(returned)[0]
    return [
        Leaf(index, ".".join(str(key(each)) for each in path), leaf)
        for index, (path, leaf) in enumerate(found)
        if isinstance(leaf, Tensor)
    ]


def tensors(returned: Any) -> list[Tensor]:
    """The same without where they lie."""
    return [leaf.tensor for leaf in leaves(returned)]


def successors(found: Sequence[Leaf], states: Sequence[Port], batch: int) -> list[Leaf]:
    """The states after the step: the last of what `forward` returns, in the order in which it takes them.

    Raises:
        SourceError: there are fewer tensors, or they are not of the states' shapes.
    """
    if not states:
        return []
    said = ", ".join(str(port) for port in states)
    if len(found) <= len(states):
        raise SourceError(
            f"forward returns {len(found)} tensors; expected its outputs and then, in the order in which it takes "
            f"them, the states after the step: {said}"
        )
    last = list(found[-len(states) :])
    for leaf, port in zip(last, states, strict=True):
        expected = list(port.shape)
        expected.insert(port.batch_axis, batch)
        if list(leaf.tensor.shape) != expected or leaf.tensor.dtype != port.dtype:
            dtype = str(leaf.tensor.dtype).removeprefix("torch.")
            raise SourceError(
                f"state {port} comes back as {dtype} {list(leaf.tensor.shape)}, expected {expected}: forward returns "
                f"its outputs and then the states in the order in which it takes them, of a fixed size: {said}; of "
                "what grows with the steps keep the last (cache[:, -N:], or a ring)"
            )
    return last


def results(found: Sequence[Leaf], calls: dict[nn.Module, list[Call]], recurrents: Sequence[Recurrent]) -> list[Leaf]:
    """What is an output: not the state of a layer that is carried from outside, which is handed out besides."""
    known = {
        id(state)
        for each in recurrents
        if isinstance(each.layer, nn.RNNBase)
        for call in calls[each.layer]
        for state in call.returned
    }
    return [leaf for leaf in found if id(leaf.tensor) not in known] or list(found)


def outputs(
    runs: Sequence[Sequence[Leaf]], sizes: Sequence[tuple[int, int]], names: Sequence[str], taken: Sequence[str]
) -> tuple[Output, ...]:
    """The outputs, from calls with [some rows and steps], [a row more] and, where there is time, [more steps].

    Args:
        runs: what is an output, of each call.
        sizes: rows and steps of each.
        names: of the outputs; empty: where they lie in what is returned, or "y" where there is one.
        taken: names that are others'.

    Raises:
        SourceError: an output has no axis of the sessions, or of time another number than there are steps.
    """
    if not runs[0]:
        raise SourceError("forward returns no tensors beside its states: a model has an output")
    if len({len(run) for run in runs}) > 1:
        raise SourceError("forward returns more tensors for more rows or steps: expected as many whatever it is given")
    if names and len(names) != len(runs[0]):
        found = ", ".join(f"{leaf.name or 'y'} {list(leaf.tensor.shape)}" for leaf in runs[0])
        raise SourceError(f"{len(names)} names for {len(runs[0])} outputs: {found}")
    made = []
    for place, same in enumerate(zip(*runs, strict=True)):
        name = names[place] if names else "y" if len(runs[0]) == 1 else _readable(same[0].name)
        if name in taken:
            name = f"{name}_out"
        made.append(Output(same[0].index, _port(name, [leaf.tensor for leaf in same], sizes)))
    return tuple(made)


def _readable(name: str) -> str:
    return f"y.{name}" if name[:1].isdecimal() else name


def _port(name: str, tensors: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> Port:
    first = tensors[0]
    batch = _axis(name, first, tensors[1], "row")
    if batch is None:
        raise SourceError(f"output '{name}' {list(first.shape)} has no axis that is longer with more rows")
    time = _axis(name, first, tensors[2], "step") if len(tensors) > 2 else None
    for axis, size, what in ((batch, sizes[0][0], "rows"), (time, sizes[0][1], "steps")):
        if axis is not None and first.shape[axis] != size:
            raise SourceError(
                f"output '{name}' has {first.shape[axis]} {what} for {size}: expected as many as the input has"
            )
    shape = tuple(size for axis, size in enumerate(first.shape) if axis not in (batch, time))
    return Port(name, first.dtype, shape, batch, time)


def _axis(name: str, first: Tensor, other: Tensor, what: str) -> int | None:
    if first.ndim != other.ndim:
        raise SourceError(f"output '{name}' has {first.ndim} axes, and with one {what} more {other.ndim}")
    found = [axis for axis, (a, b) in enumerate(zip(first.shape, other.shape, strict=True)) if a != b]
    if len(found) > 1:
        raise SourceError(
            f"output '{name}' is {list(first.shape)}, and with one {what} more {list(other.shape)}: "
            "expected one axis that grows"
        )
    return found[0] if found else None
