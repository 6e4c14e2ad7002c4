"""What a module's `forward` takes: which tensors, which of their axes are what, and what states start from.

Said in a notation, one string for each tensor, or shown by two methods of the module.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree  # what torch.export takes arguments apart with

from gatestream.export.errors import SourceError
from gatestream.export.sources.arguments import Arguments, described, forward_parameters
from gatestream.export.sources.ports import Port, parsed

_EXAMPLE: Final = (3, 5)
"""Rows and steps of examples: unlike each other."""


@dataclass(frozen=True, slots=True)
class Signature:
    """How a module is called.

    Attributes:
        inputs: of which each step has its own.
        states: that `forward` takes and gives back.
        constants: that a session is given once.
        fixed: names of what always has one value.
        call: what `forward` is called with, of its tensors (see `ports`), and of the number of rows and steps.
    """

    inputs: tuple[Port, ...]
    states: tuple[Port, ...]
    constants: tuple[Port, ...]
    fixed: tuple[str, ...]
    call: Arguments

    @property
    def ports(self) -> tuple[Port, ...]:
        """All that `call` takes, in its order."""
        return (*self.inputs, *self.states, *self.constants)

    @property
    def has_time(self) -> bool:
        """Whether a call takes several steps."""
        return any(port.time_axis is not None for port in self.inputs)

    def sample(self, batch: int, time: int, seed: int) -> list[Tensor]:
        """Some inputs, each [batch, time, *shape]."""
        generator = torch.Generator().manual_seed(seed)
        return [port.sample((batch, time), generator) for port in self.inputs]

    def sample_constants(self, batch: int, seed: int) -> list[Tensor]:
        """Some constants of so many sessions, each [batch, *shape]."""
        generator = torch.Generator().manual_seed(seed)
        return [port.sample((batch,), generator) for port in self.constants]


def read(
    module: nn.Module,
    inputs: Sequence[str] = (),
    states: Sequence[str] = (),
    length: str = "",
    constants: Mapping[str, Any] = MappingProxyType({}),
) -> Signature:
    """What a module's `forward` takes: as a notation says it, or else as two methods of the module show it.

    `x:float32[40]` is [batch, time, 40]; other layouts name the axes: `x:float32[time,batch,40]`, and without time, a
    step a call, `x:float32[batch,40]`. The type may be left out: float32. `token:int64<256[]` are ids below 256.

    `example_inputs(batch, time)` gives the inputs of so many rows and steps, a tensor, or a tuple or dict of them;
    `example_inputs(batch)` those of one step, without a time axis. `initial_state(batch)` gives the states of new
    sessions as `forward` takes them behind the inputs: a tuple is one argument where one parameter is left, else many.
    Both are called with unlike numbers: the axes that change are the sessions' and time.

    Args:
        module: whose `forward` it is.
        inputs: of which each step has its own, named as for `Arguments`; none: as `example_inputs` shows them.
        states: that it takes and gives back, from zeros; none: as `initial_state` shows them, where it is there.
        length: the parameter that takes how many steps each row has; empty: none.
        constants: by notation ("speaker:float32[64]"), None for what every session is given once, or the value that
            each row always has; by name alone, the value that is passed as it is.

    Raises:
        SourceError: neither says it, they do so in another way, or `forward` cannot be called so.
    """
    parameters = [name for name in forward_parameters(module) if name != length]
    once = [parsed(text, time=False) for text, value in constants.items() if value is None]
    fixed = dict(_fixed(text, value) for text, value in constants.items() if value is not None)
    used = {name.partition(".")[0] for name in (*(port.name for port in once), *fixed)}
    parameters = [name for name in parameters if name not in used]
    taken = [parsed(text, time=True) for text in inputs] or _shown_inputs(module, parameters)
    used = {port.name.partition(".")[0] for port in taken}
    left = [name for name in parameters if name not in used]
    carried = [parsed(text, time=False) for text in states] or _shown_states(module, left)
    ports = (*taken, *carried, *once)
    names = [*(port.name for port in ports), *fixed]
    if twice := [name for name in names if names.count(name) > 1]:
        raise SourceError(f"'{twice[0]}' is said twice")
    without = [port for port in taken if port.time_axis is None]
    if 0 < len(without) < len(taken):
        raise SourceError(f"{without[0]} has no time axis, other inputs have: all of them or none")
    for flag, port in [*(("input", port) for port in taken), *(("constant", port) for port in once)]:
        if port.dtype in (torch.int32, torch.int64) and not port.limit:
            said = str(port).replace("[", "<N[")
            raise SourceError(f"{port}: say how many there are, --{flag} {said} for numbers from 0 to below N")
    arguments = Arguments(module, [port.name for port in ports], fixed, length)
    return Signature(tuple(taken), tuple(carried), tuple(once), tuple(fixed), arguments)


def _fixed(text: str, value: Any) -> tuple[str, Any]:
    """A name and what `Arguments` takes as fixed."""
    array = np.asarray(value) if isinstance(value, np.ndarray | list | tuple) else value
    if "[" in text:
        port = parsed(text, time=False)
        start = torch.as_tensor(array).to(port.dtype)
        try:
            return port.name, replace(port, initial=start.expand(port.shape).clone())
        except RuntimeError as error:
            raise SourceError(
                f"constant {port} has the value {list(start.shape)}, expected {list(port.shape)}"
            ) from error
    if not isinstance(array, np.ndarray):
        return text, array
    if array.ndim == 0:
        return text, array.item()
    tensor = torch.from_numpy(array)
    return text, tensor.to(torch.get_default_dtype()) if tensor.dtype == torch.float64 else tensor


def _shown_inputs(module: nn.Module, parameters: Sequence[str]) -> list[Port]:
    example = getattr(module, "example_inputs", None)
    if not callable(example):
        raise SourceError(
            f"what {described(module)} takes is not said: --input NAME:TYPE[SHAPE] with the shape of one step, as in "
            f"{next(iter(parameters), 'x')}:float32[40], or a method example_inputs(batch, time) of the module"
        )
    batch, time = _EXAMPLE
    has_time = len(inspect.signature(example).parameters) > 1
    sizes = [(batch, time), (batch + 1, time), (batch, time + 1)] if has_time else [(batch,), (batch + 1,)]
    shown = [_by_parameter(_called(example, *size), parameters) for size in sizes]
    return [_port(name, [dict(each)[name] for each in shown]) for name, _ in shown[0]]


def _shown_states(module: nn.Module, parameters: Sequence[str]) -> list[Port]:
    initial = getattr(module, "initial_state", None)
    if not callable(initial) or not parameters:
        return []
    shown = [_by_parameter(_called(initial, rows), parameters) for rows in (_EXAMPLE[0], _EXAMPLE[0] + 1)]
    return [_start(name, [dict(each)[name] for each in shown]) for name, _ in shown[0]]


def _called(method: Callable[..., Any], *sizes: int) -> Any:
    try:
        with torch.no_grad():
            return method(*sizes)
    except Exception as error:  # whatever the user's code raises
        given = ", ".join(map(str, sizes))
        raise SourceError(f"{method.__name__}({given}) failed: {type(error).__name__}: {error}") from error


def _by_parameter(example: Any, parameters: Sequence[str]) -> list[tuple[str, Tensor]]:
    """An example's tensors, each with its name: the parameter's, and where in it the tensor lies."""
    if isinstance(example, Mapping):
        arguments = dict(example)
    elif isinstance(example, tuple) and len(parameters) != 1:
        if len(example) > len(parameters):
            last = parameters[-1] if parameters else "nothing"
            # The last one may take any number.
            arguments = dict(zip(parameters, example, strict=False)) | {last: example[len(parameters) - 1 :]}
        else:
            arguments = dict(zip(parameters, example, strict=False))
    else:
        if not parameters:
            raise SourceError("there is a state, but forward has no parameter left for one")
        arguments = {parameters[0]: example}
    found = []
    for name, value in arguments.items():
        for path, leaf in pytree.tree_flatten_with_path(value)[0]:
            if not isinstance(leaf, Tensor):
                raise SourceError(f"the example of '{name}' holds a {type(leaf).__name__}, expected tensors")
            found.append((".".join([name, *(str(key(each)) for each in path)]), leaf))
    return found


def key(entry: Any) -> Any:
    """Of one step of a path into nested tuples and dicts."""
    return entry.idx if isinstance(entry, pytree.SequenceKey) else getattr(entry, "key", getattr(entry, "name", entry))


def _port(name: str, examples: Sequence[Tensor]) -> Port:
    """An input, from examples of [so many], [one row more] and, where it has time, [one step more]."""
    batch, *time = (_axis(name, examples[0], other) for other in examples[1:])
    first = examples[0]
    shape = [size for axis, size in enumerate(first.shape) if axis not in (batch, *time)]
    return Port(name, first.dtype, tuple(shape), batch, time[0] if time else None)


def _start(name: str, examples: Sequence[Tensor]) -> Port:
    """A state, from what it starts from in [so many] rows and [one row more]."""
    first = examples[0]
    axis = _axis(name, *examples)
    rows = first.movedim(axis, 0)
    if not torch.equal(rows, rows[:1].expand_as(rows)):
        raise SourceError(f"state '{name}' starts from other numbers in each row: a new session needs one start")
    initial = rows[0].clone() if rows[0].any() else None
    return Port(name, first.dtype, tuple(rows.shape[1:]), axis, None, initial=initial)


def _axis(name: str, first: Tensor, other: Tensor) -> int:
    """The one axis that differs."""
    found = [axis for axis, (a, b) in enumerate(zip(first.shape, other.shape, strict=False)) if b != a]
    if len(found) != 1 or first.ndim != other.ndim or first.dtype != other.dtype:
        raise SourceError(
            f"the example of '{name}' is {list(first.shape)}, and with one row or step more {list(other.shape)}: "
            "one axis should be longer by one"
        )
    return found[0]
