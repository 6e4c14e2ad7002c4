"""How a command ends: a status that its help names, and where it failed one line that says why."""

import errno
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BufferedWriter, FileIO, TextIOWrapper
from typing import TYPE_CHECKING, Any

import click

from gatestream.files.names import line
from gatestream.files.outputs import OutputError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

REFUSED, USAGE, FAULT, INTERRUPTED, BROKEN_PIPE = 1, 2, 70, 128 + 2, 128 + 13

STATUSES = (
    f"Exit status: 0: done. {REFUSED}: refused or failed, one line on standard error says why. {USAGE}: not called as "
    f"described here. {FAULT}: a fault of gatestream's own, `gatestream --traceback ...` shows where. {INTERRUPTED}: "
    f"interrupted. {BROKEN_PIPE}: nobody reads standard output any more."
)


class Outcome(click.Command):
    """A command whose every end is told by `STATUSES`; mixed into click's classes.

    Attributes:
        traceback: show where an error came from.
    """

    traceback = False

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **({"epilog": STATUSES} | settings))

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """As click's, but for how it ends."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        self.traceback = False
        _hold_descriptors()
        try:
            status = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
            sys.stdout.flush()
        except BaseException as error:  # whatever it is, it is told
            status = self._told(error)
        sys.exit(status if isinstance(status, int) else 0)

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """As click's."""
        with _broken_pipe_named():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """As click's."""
        with _broken_pipe_named():
            return super().invoke(ctx)

    def _told(self, error: BaseException) -> int:
        """Say what happened; the status to end with."""
        unflushed = _unflushed()
        if isinstance(error, SystemExit):
            if unflushed is None:
                return error.code if isinstance(error.code, int) else REFUSED if error.code else 0
            error = unflushed
        if isinstance(error, BrokenPipeError | _BrokenPipe):
            return BROKEN_PIPE
        if self.traceback and not isinstance(error, click.UsageError):
            say("".join(traceback.format_exception(error)).rstrip())
        status, text = _line_of(error)
        say(f"Error: {line(text)}")
        return status


class Interrupted(click.ClickException):
    """The user has interrupted it; the message says what of it is there."""

    exit_code = INTERRUPTED


class _StandardOutput(FileIO):
    """Standard output, whose errors say that it is it."""

    def write(self, data: "ReadableBuffer", /) -> int:
        """As FileIO's."""
        try:
            return super().write(data)
        except OSError as error:
            raise OSError(error.errno, error.strerror, "standard output") from error


class _BrokenPipe(Exception):
    """A BrokenPipeError that click does not know: of one it makes an end with status 1."""


@contextmanager
def _broken_pipe_named() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise _BrokenPipe from error


class OutcomeGroup(Outcome, click.Group):
    """A group of which each command ends so."""

    command_class = Outcome

    def __init__(self, *args: Any, **settings: Any) -> None:
        # Called with nothing, a group says what is missing, as a command does.
        super().__init__(*args, **({"no_args_is_help": False} | settings))


def say(text: str) -> None:
    """Print a line on standard error. Where it cannot be written there is nobody to tell, and the command goes on."""
    try:
        click.echo(text, err=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _line_of(error: BaseException) -> tuple[int, str]:
    match error:
        case click.UsageError(ctx=click.Context(command_path=path)):
            said = " ".join(error.format_message().split("\n")).removesuffix(".")
            return error.exit_code, f"{said} (see `{path} --help`)"
        case click.ClickException():
            return error.exit_code, " ".join(error.format_message().split("\n"))
        case click.Abort() | KeyboardInterrupt():
            return INTERRUPTED, "interrupted"
        case OutputError():
            return REFUSED, str(error)
        case OSError(strerror=str() as reason):
            return REFUSED, f"{os.fsdecode(error.filename)}: {reason}" if error.filename is not None else reason
        case OSError():
            return REFUSED, str(error)
        case MemoryError():
            return REFUSED, f"out of memory: {error}"
    text = " ".join(str(error).split())
    return FAULT, f"internal error: {type(error).__name__}: {text}; `gatestream --traceback ...` shows where"


def _unflushed() -> OSError | None:
    """Why what was printed did not leave, if it did not; then no further attempt is made, at exit neither."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return error
    return None


def _hold_descriptors() -> None:
    """Have something at descriptors 0, 1 and 2, so that no file that is opened gets into the place of a closed one.

    Reading from a closed standard input and writing to a closed standard output go on being errors.
    """
    for descriptor, flags in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            os.dup2(os.open(os.devnull, flags), descriptor)
    if sys.stdout is sys.__stdout__:
        encoding, errors = (sys.stdout.encoding, sys.stdout.errors) if sys.stdout else (None, None)
        raw = _StandardOutput(1, "w", closefd=False)
        sys.stdout = TextIOWrapper(BufferedWriter(raw), encoding, errors, line_buffering=raw.isatty())
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 (likewise)
