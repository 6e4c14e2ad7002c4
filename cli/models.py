"""`gatestream models`: which models a server has, and what is done about that."""

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from gatestream.cli.connection import credentials, tls_options
from gatestream.cli.numbers import SECONDS, Number
from gatestream.cli.outcome import Outcome
from gatestream.files.names import shown

if TYPE_CHECKING:
    from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

_TAKES = {
    "list": {"name"},
    "load": {"name", "version", "migrate"},
    "unload": {"name", "version", "deadline"},
    "migrate": {"name", "before", "after"},
}
_FLAGS = {
    "name": "NAME",
    "version": "--version",
    "migrate": "--migrate",
    "deadline": "--deadline",
    "before": "--from",
    "after": "--to",
}
_HEAD = ("MODEL", "VERSION", "STATE", "SESSIONS", "FORM", "WEIGHTS", "ERROR")


@click.command("models", cls=Outcome)
@click.argument("address")
@click.argument("action", type=click.Choice(list(_TAKES)), default="list")
@click.argument("name", required=False)
@click.option("--version", help="load: which; by default the newest there is. unload: which; by default all.")
@click.option("--migrate", is_flag=True, help="load: then move sessions of other versions of the same weights to it.")
@click.option(
    "--deadline", type=Number(0, 1e9), help="unload: seconds that sessions may go on; else as the server is set."
)
@click.option("--from", "before", help="migrate: the version that sessions are on; else all that go with the other.")
@click.option("--to", "after", help="migrate: the version that they go to; by default the newest.")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object a line.")
@click.option("--timeout", type=SECONDS, default=600.0, show_default=True, help="Seconds to wait for the answer.")
@tls_options
@click.option("--token", envvar="GATESTREAM_TOKEN", show_envvar=True, help="Bearer token to show to the server.")
def command(address: str, action: str, as_json: bool, timeout: float, token: str | None, **given: Any) -> None:
    """Say which models the server at ADDRESS (HOST:PORT) has, or change it: list, load, unload, migrate.

    What can be loaded lies in the folder that the server has as --models; it has to run with --model-control. Where it
    has tokens, show an admin's.

    \b
      gatestream models localhost:50051 [list [vad]]
      gatestream models localhost:50051 load vad --version 3 --migrate
      gatestream models localhost:50051 unload vad --version 2 --deadline 300
      gatestream models localhost:50051 migrate vad --from 3 --to 2
    """  # noqa: D301 (click takes the backspace itself)
    flags = {key: given.pop(key) for key in _FLAGS}
    for key, flag in _FLAGS.items():
        if flags[key] not in (None, False) and key not in _TAKES[action]:
            raise click.UsageError(f"{action} takes no {flag}")
    if flags["name"] == "" or (action != "list" and not flags["name"]):
        raise click.UsageError(f"{action} needs the NAME of a model")
    secure = credentials(**given)
    import grpc

    from gatestream.client.channel import from_rpc
    from gatestream.protos.gatestream.v1 import gatestream_pb2_grpc as pb_grpc

    metadata = () if token is None else (("authorization", f"Bearer {token}"),)
    with grpc.insecure_channel(address) if secure is None else grpc.secure_channel(address, secure) as channel:
        stub = pb_grpc.ModelControlStub(channel)
        rpc, request = _request(action, flags)
        try:
            answer = getattr(stub, rpc)(request, timeout=timeout, metadata=metadata)
        except grpc.RpcError as error:
            raise click.ClickException(" ".join(str(from_rpc(error, address)).split())) from error
    models = [answer.model] if action == "load" else [] if action == "migrate" else list(answer.models)
    if action == "list" and flags["name"]:
        models = _only(models, flags["name"])
    for line in _objects(models) if as_json else _table(models):
        click.echo(line)
    if action in ("load", "migrate") and (answer.migrated or action == "migrate"):
        click.echo(json.dumps({"migrated": answer.migrated}) if as_json else f"sessions moved: {answer.migrated}")


def _only(models: "Iterable[pb.ModelStatus]", name: str) -> "list[pb.ModelStatus]":
    models = list(models)
    if found := [each for each in models if each.name == name]:
        return found
    there = ", ".join(dict.fromkeys(repr(each.name) for each in models)) or "none"
    raise click.ClickException(f"no model {name!r} on the server; it has {there}")


def _request(action: str, flags: dict[str, Any]) -> tuple[str, Any]:
    from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

    name, version = flags["name"], flags["version"] or ""
    match action:
        case "load":
            return "LoadModel", pb.LoadModelRequest(name=name, version=version, migrate=flags["migrate"])
        case "unload":
            return "UnloadModel", pb.UnloadModelRequest(name=name, version=version, deadline_s=flags["deadline"])
        case "migrate":
            asked = pb.MigrateSessionsRequest(name=name, from_version=flags["before"], to_version=flags["after"])
            return "MigrateSessions", asked
        case _:
            return "ListModels", pb.ListModelsRequest()


def _objects(models: "Iterable[pb.ModelStatus]") -> Iterable[str]:
    for each in models:
        yield json.dumps(
            {
                "model": each.name,
                "version": each.version,
                "state": _state(each),
                "sessions": each.sessions,
                "form": _form(each),
                "weights_fingerprint": each.weights_fingerprint,
                "error": each.error,
            }
        )


def _table(models: "Iterable[pb.ModelStatus]") -> Iterable[str]:
    rows: list[tuple[str, ...]] = [_HEAD]
    for each in models:
        cells = (each.name, each.version, _state(each), str(each.sessions), _form(each), each.weights_fingerprint[:12])
        rows.append((*map(shown, cells), shown(each.error)))
    if len(rows) == 1:
        return
    widths = [max(len(row[k]) for row in rows) for k in range(len(_HEAD) - 1)]
    for row in rows:
        yield "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()


def _state(status: "pb.ModelStatus") -> str:
    from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

    return pb.ModelState.Name(status.state).removeprefix("MODEL_STATE_")


def _form(status: "pb.ModelStatus") -> str:
    from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

    # What is not loaded has none, and neither has another's file.
    return pb.Form.Name(status.form).removeprefix("FORM_").lower() if status.form else "-"
