"""`gatestream serve`: settings from flags, the environment and a TOML file, in this order of precedence."""

import asyncio
import tomllib
import typing
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

import click

import gatestream.server.grpc_poller  # noqa: F401  (before gRPC, which the rest imports)
from gatestream.server.config import Limits, ServerConfig, Threads, TickLimits
from gatestream.server.errors import ServerError, first_of

_GROUPS: dict[str, type[Any]] = {"": ServerConfig, "tick": TickLimits, "limits": Limits}


def number_or_auto(value: Any) -> Threads:
    """What --threads takes; its help calls it by this function's name."""
    return "auto" if value == "auto" else click.INT.convert(value, None, None)


def _settings() -> list[tuple[str, Field[Any]]]:
    return [(group, field) for group, config in _GROUPS.items() for field in fields(config) if "help" in field.metadata]


def _name(group: str, field: Field[Any]) -> str:
    # Limits of the server need no prefix; those of a tick would be taken for them without one.
    return f"tick_{field.name}" if group == "tick" else field.name


def _options(command: Callable[..., None]) -> Callable[..., None]:
    for group, field in reversed(_settings()):
        hints = typing.get_type_hints(_GROUPS[group])
        choices = field.metadata["choices"]
        hint = hints[field.name]
        kinds: dict[Any, Any] = {Path | None: Path, Threads: number_or_auto}
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


def _read_file(ctx: click.Context, _parameter: click.Parameter, path: Path | None) -> None:
    """Make a TOML file's values the defaults of the flags."""
    if path is None:
        return
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise click.BadParameter(f"{path}: {error}") from error
    known = {"artifacts", *(_name(group, field) for group, field in _settings())}
    if unknown := sorted(values.keys() - known):
        raise click.BadParameter(f"{path}: unknown settings {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    for group, field in _settings():
        value = values.get(_name(group, field))
        # click would take the whole part of 2.5 for a number of sessions.
        if field.type in (int, Threads) and value not in (None, "auto") and type(value) is not int:
            raise click.BadParameter(f"{path}: {_name(group, field)} is {value!r}; expected a whole number")
    ctx.default_map = values


@click.command(context_settings={"auto_envvar_prefix": "GATESTREAM", "max_content_width": 110})
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
def command(artifacts: tuple[Path, ...], **values: Any) -> None:
    """Serve ARTIFACTS, made by `gatestream export`, over gRPC.

    A setting is taken from its flag, else from the environment, else from the file given with --config, else from its
    default.
    """
    from gatestream.server.logs import configure

    configure(values["log_format"])
    try:
        parts = {
            group: config(**{f.name: values[_name(g, f)] for g, f in _settings() if g == group})
            for group, config in _GROUPS.items()
            if group
        }
        own = {f.name: values[f.name] for g, f in _settings() if not g}
        config = ServerConfig(artifacts=artifacts, **own, **parts)
        if config.workers == 1:
            from gatestream.server.loop import run
            from gatestream.server.polling import busy_poll
            from gatestream.server.server import serve

            run(serve(config), busy_poll(config))
        else:
            from gatestream.server.workers import supervise

            asyncio.run(supervise(config))
    except (ServerError, BaseExceptionGroup) as error:
        first = first_of(error)
        raise click.ClickException(str(first)) if isinstance(first, ServerError) else first from error
