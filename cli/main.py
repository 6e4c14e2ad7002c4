"""`gatestream`: one command. A subcommand is imported when it is called, so that none pays for another's imports."""

import importlib
import os
from typing import ClassVar

import click

import gatestream
from gatestream.cli.outcome import OutcomeGroup


class _LazyGroup(OutcomeGroup):
    """Subcommand NAME is the object `command` of gatestream.cli.NAME."""

    summaries: ClassVar[dict[str, str]] = {
        "train": "Train a reference model.",
        "export": "Turn a checkpoint into a verified ONNX artifact.",
        "adopt": "Turn any recurrent ONNX file into a verified artifact.",
        "inspect": "Say what an artifact is, find its gates, draw its cell.",
        "serve": "Serve artifacts over gRPC.",
        "health": "Ask a server whether it serves.",
        "models": "List a server's models, load and unload them, move sessions between versions.",
        "sessions": "List, show, export, import, delete and prune the sessions in a store.",
        "stream": "Stream rows from a file or standard input through a served model.",
        "demo": "Train, export, serve and stream, and show what came of it.",
    }

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.summaries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.summaries:
            return None
        command: click.Command = importlib.import_module(f"gatestream.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # click's own would import every subcommand to ask for its summary.
        with formatter.section("Commands"):
            formatter.write_dl(list(self.summaries.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(gatestream.__version__, prog_name="gatestream")
@click.option("--traceback", is_flag=True, envvar="GATESTREAM_TRACEBACK", help="Show where an error came from.")
@click.pass_context
def main(ctx: click.Context, traceback: bool) -> None:
    """Recurrent models, live: train, export to ONNX with the gates preserved, serve with per-session state."""
    assert isinstance(ctx.command, _LazyGroup)  # it is this one
    ctx.command.traceback = traceback
    if traceback:
        os.environ["GATESTREAM_TRACEBACK"] = "1"  # Of the processes that it starts, too: workers of `serve`.
