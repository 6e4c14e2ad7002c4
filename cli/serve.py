"""`gatestream serve`: settings from flags, the environment and a TOML file, in this order of precedence."""

import asyncio
import tomllib
import typing
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

import click

from gatestream.cli.extras import SERVING, needing
from gatestream.cli.outcome import Outcome
from gatestream.files.names import shown
from gatestream.server.config import Limits, ServerConfig, Threads, TickLimits, setting_name
from gatestream.server.errors import ConfigError, ServerError, first_of

_CONFIG = "gatestream.config"
"""Where a context keeps the path of the TOML file."""

_GROUPS: dict[str, type[Any]] = {"": ServerConfig, "tick": TickLimits, "limits": Limits}

_READ = ("tokens", "tls_cert", "tls_key", "tls_client_ca")
"""The settings that name a file to read."""


class _SettingError(click.ClickException):
    """A setting that is not what it may be ends the command as a flag that cannot be read does."""

    exit_code = 2


def number_or_auto(value: Any) -> Threads:
    """What --threads takes; its help calls it by this function's name."""
    return "auto" if value == "auto" else click.INT.convert(value, None, None)


def _settings() -> list[tuple[str, Field[Any]]]:
    return [(group, field) for group, config in _GROUPS.items() for field in fields(config) if "help" in field.metadata]


def _name(group: str, field: Field[Any]) -> str:
    return setting_name(_GROUPS[group], field.name)


def _options(command: Callable[..., None]) -> Callable[..., None]:
    for group, field in reversed(_settings()):
        hints = typing.get_type_hints(_GROUPS[group])
        choices = field.metadata["choices"]
        hint = hints[field.name]
        kinds: dict[Any, Any] = {Path | None: click.Path(path_type=Path), str | None: str, Threads: number_or_auto}
        kind = click.Choice(choices) if choices else kinds.get(hint, hint)
        command = click.option(
            f"--{_name(group, field).replace('_', '-')}",
            type=kind,
            is_flag=kind is bool,
            default=None if field.default is MISSING else field.default,
            show_default=True,
            show_envvar=True,
            help=field.metadata["help"],
        )(command)
    return command


_Kind = tuple[Callable[[Any], bool], str]
_ARTIFACTS: _Kind = (
    lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value),
    "a list of strings",
)
_KINDS: dict[Any, _Kind] = {
    int: (lambda value: type(value) is int, "a whole number"),
    Threads: (lambda value: type(value) is int or value == "auto", "a whole number, or auto"),
    float: (lambda value: type(value) in (int, float), "a number"),
    bool: (lambda value: type(value) is bool, "true or false"),
}


def _kind(field: Field[Any]) -> _Kind:
    """What the file may have for a setting, and what that is called."""
    return _KINDS.get(field.type, (lambda value: isinstance(value, str), "a string"))


def _read_file(ctx: click.Context, _parameter: click.Parameter, path: Path | None) -> None:
    """Make a TOML file's values the defaults of the flags."""
    if path is None:
        return
    try:
        values = tomllib.loads(path.read_text())
    except (
        OSError,
        ValueError,
        RecursionError,
    ) as error:  # what tomllib raises for other than TOML, and too much of it
        raise click.BadParameter(f"{path}: {error}") from error
    known = {"artifacts", *(_name(group, field) for group, field in _settings())}
    if unknown := sorted(values.keys() - known):
        raise click.BadParameter(f"{path}: unknown settings {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    kinds = {"artifacts": _ARTIFACTS} | {_name(group, field): _kind(field) for group, field in _settings()}
    for name, value in values.items():
        # click would take the whole part of 2.5 for a number of sessions, and true for 1.
        takes, expected = kinds[name]
        if not takes(value):
            raise click.BadParameter(f"{path}: {name} is {value!r}; expected {expected}")
    ctx.default_map = values
    ctx.meta[_CONFIG] = path


@click.command(cls=Outcome, context_settings={"auto_envvar_prefix": "GATESTREAM", "max_content_width": 110})
@click.argument("artifacts", nargs=-1, type=click.Path(path_type=Path), envvar="GATESTREAM_ARTIFACTS")
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    callback=_read_file,
    is_eager=True,
    expose_value=False,
    show_envvar=True,
    help="TOML file with any of these settings, named as the flags are, with underscores.",
)
@_options
@click.pass_context
def command(ctx: click.Context, /, artifacts: tuple[Path, ...], **values: Any) -> None:
    """Serve ARTIFACTS, made by `gatestream export` or `gatestream adopt`, and a folder of models (--models) over gRPC.

    Any other ONNX file is adopted first, in a process of its own, and what was found of it is logged.

    A setting is taken from its flag, else from the environment, else from the file given with --config, else from its
    default.

    Ends with 0 when it was told to stop and has drained, with 2 when a setting is not what it may be, and with 1 when
    it cannot serve as it is set.
    """
    from gatestream.files import outputs

    config = _config(artifacts, values)
    if values["port_file"] is not None:
        inputs = {"--config": ctx.meta.get(_CONFIG)}
        inputs |= {f"--{name.replace('_', '-')}": values[name] for name in _READ}
        inputs |= {f"the artifact {shown(path)}": path for path in artifacts}
        written = outputs.Output("--port-file", values["port_file"], "port", through=True)
        outputs.check([written], inputs, forcible=False)
    with needing("serving", SERVING):
        from gatestream.server.logs import configure
        from gatestream.server.process.tuning import silence_grpc, tune

        # Either is done before gRPC is imported.
        if config.workers == 1:
            tuned = tune(config)
            from gatestream.server.app import serve
        else:
            silence_grpc()
            from gatestream.server.process.supervisor import supervise
        from gatestream.server.durability.opening import open_store
    try:
        if config.durability != "off":
            # It connects to nothing yet.
            open_store(config.store, config.durability)
    except ConfigError as error:
        raise _SettingError(str(error)) from error
    configure(config.log_format)
    try:
        if config.workers == 1:
            tuned.run(serve(config, tuned=tuned))
        else:
            asyncio.run(supervise(config))
    except (ServerError, BaseExceptionGroup) as error:
        first = first_of(error)
        raise click.ClickException(str(first)) if isinstance(first, ServerError) else first from error


def _config(artifacts: tuple[Path, ...], values: dict[str, Any]) -> ServerConfig:
    try:
        parts = {
            group: config(**{f.name: values[_name(g, f)] for g, f in _settings() if g == group})
            for group, config in _GROUPS.items()
            if group
        }
        own = {f.name: values[f.name] for g, f in _settings() if not g}
        return ServerConfig(artifacts=artifacts, **own, **parts)
    except ConfigError as error:
        raise _SettingError(str(error)) from error
