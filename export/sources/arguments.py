"""Tensors where a module's `forward` takes them."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gatestream.export.errors import SourceError
from gatestream.export.sources.ports import Port


class Arguments:
    """Puts tensors where `forward` takes them.

    Args:
        module: whose `forward` it is.
        names: of the tensors: that of a parameter, or behind a dot its part: `state.0` of a tuple, `state.h` of a dict.
        fixed: what else it takes, by name, and always the same of: a value, or a port whose start each row has.
        length: the parameter that takes how many steps each row has; empty: none.

    Raises:
        SourceError: `forward` cannot be called so.
    """

    def __init__(self, module: nn.Module, names: Sequence[str], fixed: Mapping[str, Any], length: str = "") -> None:
        parameters = forward_parameters(module)
        self._length = length
        self._fixed = list(fixed.values())
        self._rest: list[int] = []
        self._places: list[tuple[str, tuple[str, ...], int]] = []
        rest = [each.name for each in parameters.values() if each.kind is each.VAR_POSITIONAL]
        keywords = [each.name for each in parameters.values() if each.kind is each.VAR_KEYWORD]
        for index, name in enumerate((*names, *fixed)):
            head, *path = name.split(".")
            if (head in parameters and head not in (*rest, *keywords)) or (keywords and head not in parameters):
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
            optional = each.default is not each.empty or each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
            if not optional and each.name not in given:
                raise SourceError(
                    f"{described(module)}: forward takes '{each.name}', which is neither an input nor a state: say it "
                    f"with --input or --state, --constant where a session is given it once, or --length {each.name} "
                    "where it is the number of steps of each row"
                )
        if length and length not in parameters:
            raise SourceError(f"{described(module)} has no parameter '{length}' for the number of steps")
        # What stands before the rest must be positional, too.
        self._positional = [
            each.name
            for each in parameters.values()
            if each.name in given and (self._rest or each.kind is each.POSITIONAL_ONLY)
        ]

    def __call__(self, tensors: Sequence[Tensor], batch: int, time: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and named arguments."""
        tensors = [*tensors, *(_value(each, batch) for each in self._fixed)]
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


def _value(fixed: Any, batch: int) -> Any:
    return fixed.laid_out(fixed.start(batch)) if isinstance(fixed, Port) else fixed


def _tuples(value: Any) -> Any:
    """Nested dicts; those whose keys count from 0 become tuples."""
    if not isinstance(value, dict):
        return value
    parts = {key: _tuples(part) for key, part in value.items()}
    if list(parts) == [str(index) for index in range(len(parts))]:
        return tuple(parts.values())
    return parts
