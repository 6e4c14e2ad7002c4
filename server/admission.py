"""How much may be pending: of one model, and of each stream."""

from collections.abc import Sequence

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.server.config import Limits
from gatestream.server.errors import ConfigError, Exhausted
from gatestream.server.owner import Owner


class Admission:
    """The rows of one model that were accepted and not yet computed. A control counts as a row.

    Args:
        spec: of the model.
        limits: of the server.
        row_bytes: of the answer to one row, without gates and with them.

    Raises:
        ConfigError: not even one row fits the limits.

    Attributes:
        rows: pending.
        seconds_per_row: what one takes, by the latest ticks.
    """

    def __init__(self, spec: pb.ModelSpec, limits: Limits, row_bytes: Sequence[int]):
        if limits.reply_bytes_per_stream < row_bytes[True]:
            raise ConfigError(
                f"reply_bytes_per_stream is {limits.reply_bytes_per_stream}; the answer to one row of model "
                f"{spec.name!r} is {row_bytes[True]} bytes"
            )
        self.rows = 0
        self.seconds_per_row = 0.0
        self._most = limits.rows
        self._most_of_a_stream = [
            min(limits.rows_per_stream, limits.reply_bytes_per_stream // row_bytes[gates]) for gates in (False, True)
        ]

    def most_rows(self, gates: bool) -> int:
        """Rows that one stream may have in flight, answered with the gates or without."""
        return self._most_of_a_stream[gates]

    def take(self, owner: Owner | None, rows: int, *, gates: bool = False, unlimited: bool = False) -> None:
        """Let rows in, for an owner or for nobody.

        Raises:
            Exhausted: too much is pending.
        """
        pending = self.rows + rows
        if owner is None:
            if pending > self._most and not unlimited:
                raise self._all_taken(rows)
        else:
            held = owner.rows + rows
            if (pending > self._most or held > self._most_of_a_stream[gates]) and not unlimited:
                raise self._all_taken(rows) if pending > self._most else self._stream_full(owner, rows, gates)
            owner.rows = held
        self.rows = pending

    def _all_taken(self, rows: int) -> Exhausted:
        wait = self._wait()
        return Exhausted(
            f"{rows} rows more than the {self.rows} pending would be over the server's {self._most}; "
            f"try again in {wait:.3f} s",
            retry_after=wait,
        )

    def _stream_full(self, owner: Owner, rows: int, gates: bool) -> Exhausted:
        most = self._most_of_a_stream[gates]
        return Exhausted(
            f"{rows} rows more than the {owner.rows} in flight would be over the stream's {most}; "
            + ("wait for answers" if rows <= most else "send less in a message"),
            retry_after=self._wait() if rows <= most else 0.0,
        )

    def _wait(self) -> float:
        return max(0.001, self.rows * self.seconds_per_row)
