"""`gatestream stream`: rows in, answers out, as they come."""

import contextlib
import json
import logging
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gatestream.cli.connection import credentials, tls_options
from gatestream.cli.numbers import SECONDS
from gatestream.cli.outcome import Outcome, say
from gatestream.cli.table_options import table_options

if TYPE_CHECKING:
    from io import RawIOBase

    from gatestream.cli.rows import Form
    from gatestream.cli.rows.options import TableOptions
    from gatestream.cli.rows.reading import Reader
    from gatestream.cli.rows.writing import Writer
    from gatestream.client.sync import Client, Session
    from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

_EXTENSIONS: "dict[str, Form]" = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".txt": "text"}
_FORM = click.Choice(["csv", "jsonl", "text"])


@click.command("stream", cls=Outcome)
@click.argument("address")
@click.argument("file", default="-", type=click.Path(allow_dash=True))
@click.option("--model", default="", help="Which of the server's models; may be left out where it has only one.")
@click.option("--input", "reads", type=_FORM, help="Form of the rows; by default by FILE's ending, or by the model.")
@click.option("--output", "writes", type=_FORM, help="Form of the answers; by default that of the rows.")
@click.option("--gates", is_flag=True, help="Write the gate activations too (csv and jsonl).")
@click.option(
    "--constant",
    "constants",
    metavar="NAME=VALUE",
    multiple=True,
    help="What the model is given once, for this session: a number or list as JSON, or a .npy file. Repeatable.",
)
@click.option("--unknown", metavar="TOKEN", help="Text: the token to take for a character that is none.")
@table_options(columns="CSV columns or JSON keys to use, in the order of the model's inputs; by default its own names.")
@click.option("--timeout", type=SECONDS, default=30.0, show_default=True, help="Seconds to wait for an answer.")
@click.option(
    "--resume/--no-resume",
    default=True,
    show_default=True,
    help="Go on when the connection is lost or the server is restarted, as far as the server keeps the session.",
)
@tls_options
@click.option("--token", envvar="GATESTREAM_TOKEN", show_envvar=True, help="Bearer token to show to the server.")
def command(
    address: str,
    file: str,
    model: str,
    reads: "Form | None",
    writes: "Form | None",
    gates: bool,
    constants: tuple[str, ...],
    unknown: str | None,
    table: "TableOptions",
    timeout: float,
    resume: bool,
    token: str | None,
    **tls: Any,
) -> None:
    """Stream the rows of FILE through a new session of the server at ADDRESS (HOST:PORT; several, between commas).

    Without FILE, or with -, rows come from standard input. A row that comes while nothing is on its way is stepped
    at once; rows that come meanwhile are stepped together. Each answer is written as it comes.

    \b
      csv    a table (docs/training.md, Tables); columns are taken by the model's names for them.
             Answers: a header, then a line of numbers for each row.
      jsonl  an array, or an object with the model's names as keys, on each line.
             Answers: {"position": ..., "y": [...]} for each row; with --gates also "gates".
      text   tokens of the model, the longest that fits at each place; line ends that are none are passed over.
             Answers: for each token, the one that the model ranks highest to come next.

    What cannot be read is refused with its line, once the rows before it are answered. What was detected, and rows that
    were dropped, are told on standard error.

    \b
      tail -f measured.csv | gatestream stream localhost:50051 --model weather
      echo BTXSEBPVVE | gatestream stream localhost:50051 --model reber --output csv
    """  # noqa: D301 (click takes the backspace itself)
    from gatestream.cli.rows import RowsError
    from gatestream.cli.rows.reading import Reader
    from gatestream.cli.rows.writing import Writer
    from gatestream.client.errors import GatestreamError

    try:
        with (
            _connected(address, timeout, token, tls, resume=resume) as gs,
            _opened(file) as (pieces, live),
            gs.session(model, gates=gates, constants=_constants(constants)) as session,
        ):
            spec = gs.models[session.model]
            form = reads or _EXTENSIONS.get(Path(file).suffix.lower()) or _natural(spec)
            reader = Reader(spec, form, table, unknown=unknown, live=live, note=say)
            tokens = bool(spec.outputs[0].vocabulary) and not gates
            writer = Writer(spec, writes or (form if form != "text" or tokens else "jsonl"), gates=gates)
            _stream(session, reader, pieces, writer)
    except (GatestreamError, RowsError) as error:
        raise click.ClickException(" ".join(str(error).split())) from error


def _stream(session: "Session", reader: "Reader", pieces: Iterator[bytes], writer: "Writer") -> None:
    from gatestream.client.errors import InputError, StepError

    out = sys.stdout
    out.write(writer.header())
    out.flush()
    begin = session.position
    try:
        for _ in session.stream(reader.rows(pieces)):
            steps = session.last.position - begin
            reader.answered()
            out.write(writer.breaks(reader.ended(steps)))
            out.write(writer.answer(session.last))
            out.write(writer.breaks(reader.ended(steps + 1)))
            out.flush()
    except (InputError, StepError) as error:
        raise reader.error(str(error)) from error
    finally:
        out.write(writer.end())
        out.flush()


@contextlib.contextmanager
def _connected(
    address: str, timeout: float, token: str | None, tls: dict[str, Any], *, resume: bool
) -> "Iterator[Client]":
    from gatestream.client import connect

    _tell_of_reconnecting()
    with connect(address, credentials=credentials(**tls), token=token, timeout=timeout, resume=resume) as gs:
        yield gs


def _tell_of_reconnecting() -> None:
    """What the client logs, as lines on standard error."""

    class Saying(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            say(record.getMessage())

    log = logging.getLogger("gatestream.client")
    log.setLevel(logging.INFO)
    log.handlers = [Saying()]


@contextlib.contextmanager
def _opened(file: str) -> "Iterator[tuple[Iterator[bytes], bool]]":
    """The bytes of a file in pieces, and whether they come as they are made."""
    name = "standard input" if file == "-" else file
    try:
        source = open(0 if file == "-" else file, "rb", buffering=0, closefd=file != "-")  # noqa: SIM115
    except OSError as error:
        raise OSError(error.errno, error.strerror, name) from error
    with source:
        yield _reads(source, name), not stat.S_ISREG(os.fstat(source.fileno()).st_mode)


def _reads(source: "RawIOBase", name: str) -> Iterator[bytes]:
    from gatestream.cli.rows.lines import pieces_of

    try:
        yield from pieces_of(source)
    except OSError as error:
        raise OSError(error.errno, error.strerror, name) from error


def _constants(given: Sequence[str]) -> dict[str, Any]:
    """What NAME=VALUE says, by name."""
    constants: dict[str, Any] = {}
    for each in given:
        name, _, value = each.partition("=")
        if not name or not value:
            raise click.BadParameter(f"{each[:60]!r} is not NAME=VALUE", param_hint="'--constant'")
        try:
            constants[name] = _array(value) if value.endswith(".npy") else json.loads(value)
        except ValueError as error:
            raise click.BadParameter(
                f"{name}: {value[:60]!r} is neither JSON nor a .npy file: {error}", param_hint="'--constant'"
            ) from error
    return constants


def _array(path: str) -> Any:
    import numpy as np

    # No pickles: they run what they hold.
    return np.load(path, allow_pickle=False)


def _natural(spec: "pb.ModelSpec") -> "Form":
    return "text" if spec.inputs[0].vocabulary else "csv"
