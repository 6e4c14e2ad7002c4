"""Weights from a file into a module: a state dict, or a checkpoint that has one among other things."""

import io
import pickle
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from gatestream.export.errors import SourceError
from gatestream.files.reading import read
from gatestream.protos.bounds import LARGEST_FILE

_SHOWN = 3
_SAVED = (b"PK", b"\x80")
"""How a file of torch.save's begins: a zip, or of old versions a pickle."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was taken from a file.

    Attributes:
        tensors: how many of its tensors.
        prefix: what stood before the module's names in the file.
        ignored: what else was in the file.
    """

    tensors: int
    prefix: str
    ignored: tuple[str, ...]

    def __str__(self) -> str:
        place = f" behind '{self.prefix}'" if self.prefix else ""
        rest = f"; ignored {_listed(self.ignored)}" if self.ignored else ""
        return f"{self.tensors} tensors{place}{rest}"


def load(module: nn.Module, path: Path, *, prefix: str = "") -> Loaded:
    """Load a module's weights, every one of them.

    Args:
        module: whose `state_dict` they are.
        path: a safetensors file, or what `torch.save` wrote. Nothing in it is executed.
        prefix: what stands before the module's names in the file; what does not begin so is ignored. A checkpoint's
            keys are joined by dots: "state_dict.model.". Empty: the file is a state dict, or has one that can be meant.

    Raises:
        SourceError: the file is not one of weights, has none or has them in several places, or they are not those of
            the module: missing, unexpected and misshapen ones are named.
        OSError: it cannot be read.
    """
    contents = _contents(path)
    tensors = dict(_flat(contents))
    expected = module.state_dict()
    place = _place(contents, tensors, prefix, path)
    chosen = {name.removeprefix(place): tensor for name, tensor in tensors.items() if name.startswith(place)}
    missing, unexpected = sorted(expected.keys() - chosen.keys()), sorted(chosen.keys() - expected.keys())
    if missing or unexpected:
        likely = _likely(expected, tensors) if missing else None
        hint = f"; all of the module's are there behind '{likely}': --prefix {likely}" if likely else ""
        kinds = (("missing", missing), ("unexpected", unexpected))
        wrong = "; ".join(f"{what} {_listed(names)}" for what, names in kinds if names)
        raise SourceError(f"{path}: its weights are not the module's: {wrong}{hint}")
    for name, tensor in expected.items():
        if chosen[name].shape != tensor.shape:
            raise SourceError(
                f"{path}: '{name}' is {list(chosen[name].shape)}, the module's is {list(tensor.shape)}: "
                "the factory makes a module of another size"
            )
    module.load_state_dict(chosen)
    return Loaded(len(chosen), place, tuple(_ignored(contents, place)))


def _contents(path: Path) -> Mapping[object, object]:
    data = read(path, LARGEST_FILE)
    try:
        if path.suffix == ".safetensors":
            tensors: Mapping[Any, object] = load_safetensors(data)
            return tensors
        if not data.startswith(_SAVED):
            raise SourceError(f"{path}: neither a safetensors file nor one that torch.save wrote")
        found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except SourceError:
        raise
    except SafetensorError as error:
        raise SourceError(f"{path}: not a safetensors file, or a damaged one: {error}") from error
    except pickle.UnpicklingError as error:
        raise SourceError(
            f"{path}: holds more than tensors and plain values, and reading it would run code of the file's: "
            "save module.state_dict() alone"
        ) from error
    except Exception as error:  # torch raises whatever the bytes lead it to
        raise SourceError(f"{path}: not a file of weights: {str(error).splitlines()[0][:200]}") from error
    if not isinstance(found, Mapping):
        raise SourceError(f"{path}: holds a {type(found).__name__}, expected a state dict")
    return found


def _flat(found: Mapping[object, object], before: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors of nested mappings, by their keys joined by dots."""
    for key, value in found.items():
        if isinstance(value, Tensor):
            yield f"{before}{key}", value
        elif isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")


def _place(contents: Mapping[object, object], tensors: Iterable[str], prefix: str, path: Path) -> str:
    """What stands before the weights' names.

    Raises:
        SourceError: nothing begins with the prefix, or without one there is no telling.
    """
    inside = [f"{key}." for key, value in contents.items() if _is_state_dict(value)]
    within = inside[0] if len(inside) == 1 else ""
    if prefix:
        for place in (prefix, within + prefix):
            if any(name.startswith(place) for name in tensors):
                return place
        raise SourceError(f"{path}: no tensor's name begins with '{prefix}'; there are {_listed(list(tensors))}")
    if any(isinstance(value, Tensor) for value in contents.values()) or within:
        return within
    said = f"several state dicts: --prefix with one of {_listed(inside)}" if inside else "no state dict"
    raise SourceError(f"{path}: holds {said}")


def _ignored(contents: Mapping[object, object], place: str, before: str = "") -> Iterator[str]:
    """Keys of what was not taken, each as near to the root as can be."""
    for key, value in contents.items():
        name = f"{before}{key}"
        if name.startswith(place):
            continue
        if isinstance(value, Mapping) and place.startswith(f"{name}."):
            yield from _ignored(value, place, f"{name}.")
        else:
            yield name


def _is_state_dict(found: object) -> bool:
    return isinstance(found, Mapping) and bool(found) and all(isinstance(each, Tensor) for each in found.values())


def _likely(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str | None:
    """What stands before all of the module's names in the file, if there is one such thing."""
    first = min(expected)
    found = {name.removesuffix(first) for name in tensors if name.endswith(first)}
    fitting = [each for each in found if each and all(each + name in tensors for name in expected)]
    return fitting[0] if len(fitting) == 1 else None


def _listed(names: list[str] | tuple[str, ...]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
