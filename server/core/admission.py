"""How much may be pending: of one model, of each tenant and of each stream."""

from math import ceil, log2
from typing import Final

from gatestream.protos.layout import ModelLayout
from gatestream.server.config import Limits
from gatestream.server.core.accounts import ITEM_BYTES, Account
from gatestream.server.core.reply_sink import Holder
from gatestream.server.core.send_queue import SendQueue
from gatestream.server.errors import ConfigError, Exhausted

# How soon who is over a bound of bytes is to try again: that depends on how fast others read.
_BYTES_SECONDS: Final = 0.1


class Caller:
    """Who asks for one thing by a unary call: what it queues is its tenant's.

    Args:
        account: of the tenant.
    """

    def __init__(self, account: Account):
        self.rows = 0
        self.account = account
        self.send_queue = SendQueue(account)


class Admission:
    """The rows of one model that were accepted and not yet computed. A control counts as a row.

    Every row that `take` lets in is given back once, by `computed` or by `withdrawn`.

    Args:
        layout: of the model.
        limits: of the server.

    Raises:
        ConfigError: not even one row fits the limits.

    Attributes:
        rows: pending.
        most: that may be.
        seconds_per_row: what one takes, by the latest ticks.
    """

    def __init__(self, layout: ModelLayout, limits: Limits):
        inputs, outputs, gates = layout.input_bytes, layout.output_bytes, layout.gate_bytes
        if limits.reply_bytes_per_stream < outputs + gates:
            raise ConfigError(
                f"reply_bytes_per_stream is {limits.reply_bytes_per_stream}; the answer to one row of model "
                f"{layout.name!r} is {outputs + gates} bytes"
            )
        self.rows = 0
        self.seconds_per_row = 0.0
        self.most = limits.rows
        self._most_of_a_stream = [
            min(limits.rows_per_stream, limits.reply_bytes_per_stream // size) for size in (outputs, outputs + gates)
        ]
        # By what is wanted back, as bits: 1 the outputs, 2 the gates.
        self._row_bytes = [ITEM_BYTES + inputs + answer for answer in (0, outputs, gates, outputs + gates)]
        self._stream_rows = [self._most_of_a_stream[reply_mask >= 2] for reply_mask in range(4)]

    def most_rows(self, gates: bool) -> int:
        """Rows that one stream may have in flight, answered with the gates or without."""
        return self._most_of_a_stream[gates]

    def take(self, owner: Holder, rows: int, reply_mask: int = 0, *, unlimited: bool = False) -> None:
        """Let rows in.

        Args:
            owner: whose.
            rows: how many.
            reply_mask: OUTPUTS and GATES, as they are to be answered.
            unlimited: whatever is pending.

        Raises:
            Exhausted: too much is pending.
        """
        if not (unlimited or self.has_room(owner, rows, reply_mask)):
            self._check(owner, rows, reply_mask)
        size = rows * self._row_bytes[reply_mask]
        account = owner.account
        self.rows += rows
        owner.rows += rows
        account.rows += rows
        account.bytes += size
        account.everyone.bytes += size

    def has_room(self, owner: Holder, rows: int, reply_mask: int) -> bool:
        """Whether there is room at a first look, which counts what is being sent; `take` looks again where not."""
        account = owner.account
        everyone = account.everyone
        size = rows * self._row_bytes[reply_mask]
        return (
            self.rows + rows <= self.most
            and owner.rows + rows <= self._stream_rows[reply_mask]
            and account.rows + rows <= account.most_rows
            and account.bytes + size <= account.most_bytes
            and everyone.bytes + size <= everyone.most_bytes
        )

    def computed(self, owner: Holder, rows: int, reply_mask: int = 0) -> None:
        """Rows are pending no more. Their owner has them until they are sent, and their bytes are the answer's."""
        self.rows -= rows
        account = owner.account
        account.rows -= rows
        size = rows * self._row_bytes[reply_mask]
        account.bytes -= size
        account.everyone.bytes -= size

    def withdrawn(self, owner: Holder, rows: int, reply_mask: int = 0) -> None:
        """Rows will not be answered."""
        self.computed(owner, rows, reply_mask)
        owner.rows -= rows

    def _check(self, owner: Holder, rows: int, reply_mask: int) -> None:
        """Refuse rows for the first bound that they are over."""
        account = owner.account
        if self.rows + rows > self.most:
            raise self._all_taken(rows)
        if owner.rows + rows > self._stream_rows[reply_mask]:
            raise self._full(f"{owner.rows} in flight", rows, "the stream's", self._stream_rows[reply_mask])
        if account.rows + rows > account.most_rows:
            raise self._full(f"{account.rows} pending", rows, "this tenant's", account.most_rows)
        # A client may send as soon as it has an answer, which is then still counted as being sent.
        size, sending = rows * self._row_bytes[reply_mask], owner.send_queue.sending
        if account.bytes - sending + size > account.most_bytes:
            raise self._too_large(size, account.bytes, "this tenant's", account.most_bytes)
        everyone = account.everyone
        if everyone.bytes - sending + size > everyone.most_bytes:
            raise self._too_large(size, None, "the server's", everyone.most_bytes)

    def _all_taken(self, rows: int) -> Exhausted:
        wait = self._wait()
        return Exhausted(
            # How many others have pending is none of this tenant's business.
            f"{rows} rows more than the server has pending would be over its {self.most}; try again in {wait:.3f} s",
            retry_after=wait,
        )

    def _full(self, there: str, rows: int, whose: str, most: int) -> Exhausted:
        return Exhausted(
            f"{rows} rows more than the {there} would be over {whose} {most}; "
            + ("wait for answers" if rows <= most else "send less in a message"),
            retry_after=self._wait() if rows <= most else 0.0,
        )

    def _too_large(self, size: int, held: int | None, whose: str, most: int) -> Exhausted:
        than = "what is" if held is None else f"the {held}"
        return Exhausted(
            f"{size} bytes, of inputs and of answers to them, more than {than} held would be over {whose} {most}; "
            + ("read the answers, or try again later" if size <= most else "send less in a message"),
            retry_after=max(_BYTES_SECONDS, self._wait()) if size <= most else 0.0,
        )

    def _wait(self) -> float:
        # As exact as a client needs, and no measure of what others do.
        milliseconds = max(1.0, 1000 * self.rows * self.seconds_per_row)
        return float(2 ** ceil(log2(milliseconds))) / 1000
