"""Structured logs: an event and its fields, as JSON lines for machines or as text for a terminal."""

import logging
import os
import select
import sys
import time
from typing import Final, TextIO

import structlog

from gatestream.server.config import LogFormat
from gatestream.server.errors import cut

_MINUTE: Final = 60.0
_LINES_A_MINUTE: Final = 20

_log = structlog.get_logger(__name__)

# Without the frames' locals: they hold what clients sent.
_TRACEBACKS: Final = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
)


def configure(log_format: LogFormat, **every: object) -> None:
    """Send the logs of this process to standard error, with those of its libraries.

    No line ever raises or waits: what cannot be written is lost, and counted.

    Args:
        log_format: `auto` is text when standard error is a terminal, else JSON.
        every: fields that every line carries.
    """

    def add_fields(_logger: object, _method: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
        return {**event, **every}

    # Python has none where the process was started without.
    file: TextIO | None = sys.stderr
    terminal = file is not None and file.isatty()
    text = log_format == "text" or (log_format == "auto" and terminal)
    shared: list[structlog.types.Processor] = [
        add_fields,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    rendered: list[structlog.types.Processor] = (
        [structlog.dev.ConsoleRenderer(colors=terminal)] if text else [_TRACEBACKS, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[*shared, *rendered],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        # A line and its end in one write: the lines of several workers may not run into each other.
        logger_factory=structlog.WriteLoggerFactory(_Sink(file)),  # type: ignore[arg-type]
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, handlers=[_Libraries()], force=True)


class _Sink:
    """A file whose writes never raise and never wait.

    A disk may be full, a pipe closed, or its reader asleep; none of that is a reason to stop serving.

    Args:
        file: to write to; None: there is none.
    """

    def __init__(self, file: TextIO | None):
        self._descriptor = None if file is None else file.fileno()
        self._lost = 0
        self._torn = False

    def write(self, line: str) -> None:
        """Write a line, or lose it."""
        if self._lost:
            lost = f'{{"event": "log lines were lost", "level": "warning", "lines": {self._lost}}}\n'
            if not self._put("\n" * self._torn + lost):
                self._lost += 1
                return
            self._lost, self._torn = 0, False
        if not self._put(line):
            self._lost += 1

    def flush(self) -> None:
        """Nothing is held back."""

    def _put(self, text: str) -> bool:
        data = memoryview(text.encode(errors="backslashreplace"))
        if self._descriptor is None:
            return True
        try:
            while data:
                # A pipe that is ready takes so many bytes without waiting.
                if not select.select([], [self._descriptor], [], 0)[1]:
                    return False
                written = os.write(self._descriptor, data[: select.PIPE_BUF])
                data = data[written:]
                self._torn = bool(data)
        except (OSError, ValueError):
            return False
        return True


class _Libraries(logging.Handler):
    """What Python's libraries log, through ours; not all of it: a client can have gRPC log as often as it likes."""

    def __init__(self) -> None:
        super().__init__()
        self._minute = 0.0
        self._lines = 0

    def emit(self, record: logging.LogRecord) -> None:
        """As logging.Handler."""
        now = time.monotonic()
        if now - self._minute >= _MINUTE:
            if (more := self._lines - _LINES_A_MINUTE) > 0:
                _log.warning("lines of libraries were left out", lines=more)
            self._minute, self._lines = now, 0
        self._lines += 1
        if self._lines > _LINES_A_MINUTE:
            return
        try:
            message = record.getMessage()
        except Exception:
            message = str(record.msg)
        error = record.exc_info[1] if record.exc_info else None
        fields = {} if error is None else {"error": cut(repr(error))}
        _log.log(record.levelno, cut(message), logger=record.name, **fields)
