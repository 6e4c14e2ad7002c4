"""`gatestream sessions`: what is in a store of sessions, and what is done about it."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from gatestream.cli.extras import SERVING, needing
from gatestream.cli.numbers import Number
from gatestream.cli.outcome import Outcome
from gatestream.files.names import line, shown
from gatestream.files.writing import write

if TYPE_CHECKING:
    from gatestream.server.durability.checkpoints import Key, Store, Stored

_ACTIONS = ("list", "show", "export", "import", "delete", "prune")
_TAKES = {
    "list": {"tenant", "model", "limit"},
    "show": {"tenant", "model"},
    "export": {"tenant", "model", "output"},
    "import": {"tenant", "model"},
    "delete": {"tenant", "model"},
    "prune": {"older_than"},
}
_FLAGS = {
    "tenant": "--tenant",
    "model": "--model",
    "limit": "--limit",
    "output": "--output",
    "older_than": "--older-than",
}
# How many names an action takes, and what they are.
_NAMES = {"show": (1, 1, "a session's ID"), "export": (1, 1, "a session's ID"), "import": (1, 1, "a FILE")}
_NAMES |= {"list": (0, 0, "no name"), "prune": (0, 0, "no name"), "delete": (1, 10_000, "sessions' IDs")}
_PAGE = 500
_HEAD = ("TENANT", "MODEL", "VERSION", "SESSION", "EPOCH", "OWNER", "BYTES", "WRITTEN")


@click.command("sessions", cls=Outcome)
@click.argument("store")
@click.argument("action", type=click.Choice(_ACTIONS))
@click.argument("names", nargs=-1)
@click.option("--tenant", help="Whose; without it the one that a server without tokens has; list: everybody's.")
@click.option("--model", help="Of which model. import: in place of the one that the file names.")
@click.option("--limit", type=click.IntRange(1, 10**9), help="list: so many at most.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="export: the file to write, which is not there yet."
)
@click.option("--older-than", type=Number(0, 1e9), help="prune: seconds since they were last written.")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object a line.")
def command(store: str, action: str, names: tuple[str, ...], as_json: bool, **flags: Any) -> None:
    """Look into a STORE of sessions (sqlite:PATH, valkey://HOST:PORT/DB, as a server's --store), or change it.

    A server may use it meanwhile. A session that is deleted is lost to the server that has it, and to its client; prune
    forgets only what no living server has.

    \b
      gatestream sessions sqlite:sessions.db list --model vad
      gatestream sessions sqlite:sessions.db show call-17 --model vad
      gatestream sessions sqlite:sessions.db export call-17 --model vad -o call-17.json
      gatestream sessions valkey://cache:6379/0 import call-17.json
      gatestream sessions sqlite:sessions.db delete call-17 call-18 --model vad
      gatestream sessions sqlite:sessions.db prune --older-than 86400
    """  # noqa: D301 (click takes the backspace itself)
    _check(action, names, flags)
    with needing("sessions", SERVING):
        from gatestream.server.durability.opening import open_store
        from gatestream.server.errors import ConfigError, Refused
    try:
        if store == "memory":
            raise click.UsageError(
                "the store memory is inside its server; expected sqlite:PATH or valkey://HOST:PORT/DB"
            )
        opened = open_store(store, create=False)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    try:
        with _no_log():
            asyncio.run(_act(opened, action, names, flags, as_json))
    except Refused as error:
        raise click.ClickException(f"{error}{f' ({error.__cause__})' if error.__cause__ else ''}") from error


def _check(action: str, names: tuple[str, ...], flags: dict[str, Any]) -> None:
    for key, flag in _FLAGS.items():
        if flags[key] is not None and key not in _TAKES[action]:
            raise click.UsageError(f"{action} takes no {flag}")
    least, most, expected = _NAMES[action]
    if not least <= len(names) <= most:
        raise click.UsageError(f"{action} takes {expected}; {len(names)} names given")
    if action in ("show", "export", "delete") and not flags["model"]:
        raise click.UsageError(f"{action} needs --model")
    if action == "export" and flags["output"] is None:
        raise click.UsageError("export needs --output")
    if flags["output"] == Path("-"):
        raise click.UsageError("--output is -; expected the name of a file")
    if action == "prune" and flags["older_than"] is None:
        raise click.UsageError("prune needs --older-than")
    for value in (*names, flags["tenant"], flags["model"]):
        if value is not None and any("\ud800" <= character <= "\udfff" for character in value):
            raise click.UsageError(f"{shown(value)} is no UTF-8")


async def _act(store: "Store", action: str, names: Sequence[str], flags: dict[str, Any], as_json: bool) -> None:
    from gatestream.server.durability.checkpoints import Key

    tenant, model = flags["tenant"], flags["model"]
    keys = [Key(tenant or "", model, name) for name in names] if action in ("show", "export", "delete") else []
    try:
        match action:
            case "list":
                await _list(store, tenant, model, flags["limit"], as_json)
            case "show":
                _show(await store.read(keys[0]), as_json)
            case "export":
                await _export(store, keys[0], flags["output"], as_json)
            case "import":
                await _import(store, Path(names[0]), tenant, model, as_json)
            case "delete":
                _say("deleted", await store.delete(keys), as_json)
            case _:
                _say("forgotten", await store.prune(time.time() - flags["older_than"]), as_json)
    finally:
        await store.close_store("operator")


async def _list(store: "Store", tenant: str | None, model: str | None, limit: int | None, as_json: bool) -> None:
    head = not as_json
    async for each in _pages(store, tenant, model, limit):
        if head:
            click.echo("  ".join(_HEAD))
            head = False
        if as_json:
            click.echo(json.dumps(_said(each)))
        else:
            key = each.key
            cells = (key.tenant or "-", key.model, each.meaning.version, key.session_id, str(each.epoch))
            rest = (each.owner[:8] or "-", str(each.bytes), _moment(each.written))
            click.echo("  ".join(map(shown, (*cells, *rest))))


async def _pages(store: "Store", tenant: str | None, model: str | None, limit: int | None) -> "AsyncIterator[Stored]":
    behind: Key | None = None
    left = limit if limit is not None else 10**18
    while left and (page := await store.page(tenant, model, behind, min(_PAGE, left))):
        for each in page:
            yield each
        behind = page[-1].key
        left -= len(page)


def _show(stored: "Stored", as_json: bool) -> None:
    said = _said(stored) | {
        "checkpoints": [{"sequence": item.sequence, "position": item.position} for item in stored.checkpoints]
    }
    if as_json:
        click.echo(json.dumps(said))
        return
    for name, value in said.items():
        if name != "checkpoints":
            click.echo(f"{name}: {shown(str(value))}")
    for item in stored.checkpoints:
        click.echo(f"checkpoint: sequence {item.sequence}, position {item.position}, {len(item.state)} bytes")


async def _export(store: "Store", key: "Key", path: Path, as_json: bool) -> None:
    from gatestream.server.durability import session_file

    if path.exists():  # noqa: ASYNC240 (nobody else is on this loop)
        raise click.ClickException(f"{shown(path)} is there already; expected a file that is not")
    content = session_file.encode(await store.read(key))
    write(path, content)
    click.echo(json.dumps({"written": str(path)}) if as_json else f"written: {shown(path)}")


async def _import(store: "Store", path: Path, tenant: str | None, model: str | None, as_json: bool) -> None:
    from gatestream.server.durability import session_file

    try:
        stored = session_file.read(path)
    except session_file.SessionFileError as error:
        raise click.ClickException(line(f"{path}: {error}")) from error
    named = {"tenant": tenant, "model": model}
    key = stored.key._replace(**{name: value for name, value in named.items() if value is not None})
    await store.put(stored._replace(key=key))
    _say("imported", 1, as_json)


def _said(stored: "Stored") -> dict[str, Any]:
    return {
        **stored.key._asdict(),
        "version": stored.meaning.version,
        "epoch": stored.epoch,
        "owner": stored.owner,
        "bytes": stored.bytes,
        "written": _moment(stored.written),
        "weights_fingerprint": stored.meaning.fingerprint,
        "states": stored.meaning.states,
    }


def _say(done: str, count: int, as_json: bool) -> None:
    click.echo(json.dumps({done: count}) if as_json else f"sessions {done}: {count}")


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


@contextmanager
def _no_log() -> Iterator[None]:
    """What is wrong with the store is told by the command itself."""
    import structlog

    def drop(*_: object) -> NoReturn:
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[drop])
    try:
        yield
    finally:
        structlog.configure(**before)
