"""What gatestream offers by name: its client, its other calls that are for others, its commands with their options.

python -m tests.packaging.surface > tests/packaging/surface.txt
"""

import importlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass

import click

from gatestream.cli.main import main

OFFERED = {
    "gatestream.client": (),
    "gatestream.client.aio": (),
    "gatestream.client.errors": (),
    "gatestream.export.exporter": ("export",),
    "gatestream.export.proof.verify": ("verify",),
    "gatestream.export.drawing.inspection": ("inspect",),
    "gatestream.server.app": ("serve",),
    "gatestream.server.config": ("Limits", "ServerConfig", "TickLimits"),
}
"""By module, what of it is for others; nothing: its __all__, or all that it defines."""

_PROTOCOLS = {"__enter__", "__exit__", "__aenter__", "__aexit__", "__iter__", "__len__", "__getitem__"}


def lines() -> Iterator[str]:
    """The text, line by line."""
    for module, names in OFFERED.items():
        found = importlib.import_module(module)
        own = [name for name, value in vars(found).items() if getattr(value, "__module__", None) == module]
        public = names or getattr(found, "__all__", [name for name in own if not name.startswith("_")])
        for name in sorted(public):
            yield from _told(f"{module}.{name}", getattr(found, name))
    yield from _command("gatestream", main)


def _told(name: str, value: object) -> Iterator[str]:
    if inspect.ismodule(value):
        yield f"{name}: module {value.__name__}"
    elif inspect.isfunction(value):
        yield f"{name}{_signature(value)}"
    elif inspect.isclass(value):
        yield f"{name}({', '.join(base.__name__ for base in value.__bases__)})"
        yield from _members(name, value)
    else:
        yield f"{name}: {type(value).__name__}"


def _members(name: str, owner: type) -> Iterator[str]:
    if is_dataclass(owner):
        yield from (f"  {name}.{field.name}" for field in fields(owner))
    found: dict[str, str] = {}
    for base in reversed([each for each in owner.__mro__ if each.__module__.startswith("gatestream.")]):
        for member, value in vars(base).items():
            function = getattr(value, "__func__", value)
            if member.startswith("_") and member not in _PROTOCOLS:
                continue
            if isinstance(value, property):
                found[member] = member
            elif inspect.isfunction(function):
                found[member] = f"{member}{_signature(function)}"
    yield from (f"  {name}.{found[member]}" for member in sorted(found))


def _signature(function: Callable[..., object]) -> inspect.Signature:
    """Names, kinds and defaults; how types print is another thing in each version of NumPy."""
    found = inspect.signature(function)
    plain = [each.replace(annotation=inspect.Parameter.empty) for each in found.parameters.values()]
    return found.replace(parameters=plain, return_annotation=inspect.Signature.empty)


def _command(name: str, command: click.Command) -> Iterator[str]:
    yield name
    for parameter in command.params:
        form = " ".join([*parameter.opts, *parameter.secondary_opts])
        envvar = f" {parameter.envvar}" if parameter.envvar else ""
        yield f"  {form}: {parameter.type.name}{' (required)' if parameter.required else ''}{envvar}"
    if isinstance(command, click.Group):
        context = click.Context(command)
        for each in command.list_commands(context):
            under = command.get_command(context, each)
            assert under is not None
            yield from _command(f"{name} {each}", under)


if __name__ == "__main__":
    print(*lines(), sep="\n")
