"""What a module's `forward` takes: which tensors, which of their axes are what, and what states start from.

Said in a notation, one string for each tensor, or shown by two methods of the module.
"""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree  # what torch.export takes arguments apart with

from gatestream.export.errors import SourceError

DTYPES: Final = {
    name: getattr(torch, name)
    for name in ("float32", "int64", "float16", "float64", "int32", "int16", "int8", "uint8", "bool")
}
"""Those that a spec has, by name."""

_NOTATION: Final = re.compile(r"([^\W\d][\w.]*)(?::(\w+)(?:<(\d+))?)?\[([^\]]*)\]")
_EXAMPLE: Final = (3, 5)
"""Rows and steps of examples: unlike each other."""

_LOUD: Final = 4096
"""Whole numbers without a limit are samples of sound, or the like: so far from 0 they are tried."""


@dataclass(frozen=True, slots=True)
class Port:
    """A tensor that `forward` takes or gives.

    Attributes:
        name: in the artifact.
        dtype: of its numbers.
        shape: of one step of one session; of a state, of one session.
        batch_axis: which axis of the module's tensor is the sessions'.
        time_axis: and which is time; None: it has none.
        limit: whole numbers from 0 to below this are taken; 0: any.
        initial: what a state starts from, [*shape]; None: zeros.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    batch_axis: int = 0
    time_axis: int | None = 1
    limit: int = 0
    initial: Tensor | None = None

    def laid_out(self, tensor: Tensor) -> Tensor:
        """[batch, time, *shape], or without a time axis [batch, *shape], as the module has it."""
        if self.time_axis is None:
            return tensor if self.batch_axis == 0 else tensor.movedim(0, self.batch_axis)
        axes = (self.batch_axis, self.time_axis)
        return tensor if axes == (0, 1) else tensor.movedim((0, 1), axes)

    def normal(self, tensor: Tensor) -> Tensor:
        """The other way round."""
        if self.time_axis is None:
            return tensor if self.batch_axis == 0 else tensor.movedim(self.batch_axis, 0)
        axes = (self.batch_axis, self.time_axis)
        return tensor if axes == (0, 1) else tensor.movedim(axes, (0, 1))

    def start(self, batch: int) -> Tensor:
        """A state of sessions that have seen nothing, [batch, *shape]."""
        if self.initial is None:
            return torch.zeros((batch, *self.shape), dtype=self.dtype)
        return self.initial.expand(batch, *self.shape).clone()

    def sample(self, lead: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Some numbers that it may have, [*lead, *shape]."""
        shape = (*lead, *self.shape)
        if self.dtype.is_floating_point:
            return torch.randn(shape, generator=generator).to(self.dtype)
        if self.limit or self.dtype == torch.bool:
            return torch.randint(self.limit or 2, shape, generator=generator).to(self.dtype)
        known = torch.iinfo(self.dtype)
        low, high = max(known.min, -_LOUD), min(known.max, _LOUD)
        return torch.randint(low, high + 1, shape, generator=generator).to(self.dtype)

    def __str__(self) -> str:
        dims = [str(size) for size in self.shape]
        named = [(self.batch_axis, "batch")] + ([] if self.time_axis is None else [(self.time_axis, "time")])
        for axis, name in sorted(named):
            dims.insert(axis, name)
        return f"{self.name}:{str(self.dtype).removeprefix('torch.')}[{','.join(dims)}]"


@dataclass(frozen=True, slots=True)
class Signature:
    """How a module is called.

    Attributes:
        inputs: of which each step has its own.
        states: that `forward` takes and gives back.
        call: what `forward` is called with, of its tensors, inputs first, and of the number of rows and steps.
    """

    inputs: tuple[Port, ...]
    states: tuple[Port, ...]
    call: "Arguments"

    @property
    def has_time(self) -> bool:
        """Whether a call takes several steps."""
        return any(port.time_axis is not None for port in self.inputs)

    def sample(self, batch: int, time: int, seed: int) -> list[Tensor]:
        """Some inputs, each [batch, time, *shape]."""
        generator = torch.Generator().manual_seed(seed)
        return [port.sample((batch, time), generator) for port in self.inputs]


class Arguments:
    """Puts tensors where `forward` takes them.

    Args:
        module: whose `forward` it is.
        names: of the tensors: that of a parameter, or behind a dot its part: `state.0` of a tuple, `state.h` of a dict.
        length: the parameter that takes how many steps each row has; empty: none.

    Raises:
        SourceError: `forward` cannot be called so.
    """

    def __init__(self, module: nn.Module, names: Sequence[str], length: str = "") -> None:
        parameters = forward_parameters(module)
        self._length = length
        self._rest: list[int] = []
        self._places: list[tuple[str, tuple[str, ...], int]] = []
        rest = [each.name for each in parameters.values() if each.kind is each.VAR_POSITIONAL]
        for index, name in enumerate(names):
            head, *path = name.split(".")
            if head in parameters and head not in rest:
                self._places.append((head, tuple(path), index))
            elif rest:
                self._rest.append(index)
            else:
                raise SourceError(
                    f"{described(module)} has no parameter '{head}': its forward takes {', '.join(parameters)}; "
                    f"a part of one is NAME.0 of a tuple, NAME.h of a dict"
                )
        given = {head for head, *_ in self._places} | {length}
        for each in parameters.values():
            required = each.default is each.empty and each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)
            if required and each.name not in given:
                raise SourceError(
                    f"{described(module)}: forward takes '{each.name}', which is neither an input nor a state: say it "
                    f"with --input or --state, or --length {each.name} where it is the number of steps of each row"
                )
        if length and length not in parameters:
            raise SourceError(f"{described(module)} has no parameter '{length}' for the number of steps")
        # What stands before the rest must be positional, too.
        self._positional = [each.name for each in parameters.values() if self._rest and each.name in given]

    def __call__(self, tensors: Sequence[Tensor], batch: int, time: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and named arguments."""
        nested: dict[str, Any] = {}
        for head, path, index in self._places:
            place, *parts = head, *path
            at = nested
            for part in parts:
                at, place = at.setdefault(place, {}), part
            at[place] = tensors[index]
        named = {name: _tuples(value) for name, value in nested.items()}
        if self._length:
            named[self._length] = torch.full((batch,), time, dtype=torch.int64)
        positional = [named.pop(name) for name in self._positional]
        return (*positional, *(tensors[index] for index in self._rest)), named


def described(module: nn.Module) -> str:
    """What an error calls a module."""
    return type(module).__name__


def forward_parameters(module: nn.Module) -> Mapping[str, inspect.Parameter]:
    """What `forward` takes."""
    return inspect.signature(module.forward).parameters


def read(module: nn.Module, inputs: Sequence[str] = (), states: Sequence[str] = (), length: str = "") -> Signature:
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

    Raises:
        SourceError: neither says it, they do so in another way, or `forward` cannot be called so.
    """
    parameters = [name for name in forward_parameters(module) if name != length]
    taken = [_parsed(text, time=True) for text in inputs] or _shown_inputs(module, parameters)
    used = {port.name.partition(".")[0] for port in taken}
    left = [name for name in parameters if name not in used]
    carried = [_parsed(text, time=False) for text in states] or _shown_states(module, left)
    names = [port.name for port in (*taken, *carried)]
    if twice := [name for name in names if names.count(name) > 1]:
        raise SourceError(f"'{twice[0]}' is said twice")
    without = [port for port in taken if port.time_axis is None]
    if 0 < len(without) < len(taken):
        raise SourceError(f"{without[0]} has no time axis, other inputs have: all of them or none")
    for port in taken:
        if port.dtype in (torch.int32, torch.int64) and not port.limit:
            said = str(port).replace("[", "<N[")
            raise SourceError(f"{port}: say how many there are, --input {said} for numbers from 0 to below N")
    return Signature(tuple(taken), tuple(carried), Arguments(module, names, length))


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


def _parsed(text: str, *, time: bool) -> Port:
    found = _NOTATION.fullmatch(text.replace(" ", ""))
    if found is None:
        raise SourceError(f"'{text}' is not written as NAME:TYPE[SHAPE], such as x:float32[40] or token:int64<256[]")
    name, dtype, limit, dims = found.groups()
    dtype = dtype or "float32"
    if dtype not in DTYPES:
        raise SourceError(f"'{text}': no type '{dtype}'; one of {', '.join(DTYPES)}")
    axes = [each for each in dims.split(",") if each]
    if "batch" not in axes and "time" not in axes:
        axes = ["batch", *(["time"] if time else []), *axes]
    names, sizes = [each for each in axes if not each.isdecimal()], [int(each) for each in axes if each.isdecimal()]
    if not set(names) <= ({"batch", "time"} if time else {"batch"}) or names.count("batch") != 1 or 0 in sizes:
        known = "batch and time" if time else "batch"
        raise SourceError(f"'{text}': its axes are numbers above 0 and {known}, each once; a state has no time")
    return Port(
        name,
        DTYPES[dtype],
        tuple(sizes),
        axes.index("batch"),
        axes.index("time") if "time" in axes else None,
        int(limit or 0),
    )


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


def _tuples(value: Any) -> Any:
    """Nested dicts; those whose keys count from 0 become tuples."""
    if not isinstance(value, dict):
        return value
    parts = {key: _tuples(part) for key, part in value.items()}
    if list(parts) == [str(index) for index in range(len(parts))]:
        return tuple(parts.values())
    return parts
