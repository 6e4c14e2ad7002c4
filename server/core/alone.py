"""One step that has come alone: taken from its bytes to its answer without a batch, a run and a turn of the loop."""

from collections.abc import Sequence

from gatestream.server.backend.state import StateRows
from gatestream.server.core.admission import Admission
from gatestream.server.core.batches import GATES
from gatestream.server.core.reply_sink import ReplySink
from gatestream.server.core.sessions import SessionTable


class Alone:
    """Takes single steps of one model while nothing else is pending of it.

    It takes a step wholly, or not at all: then nothing has changed, and what is wrong with the step, if anything, the
    general way says.

    Each call of a function is felt here: a live session waits for this, and between two of its messages the caches are
    gRPC's and the kernel's.

    Args:
        rows: of state.
        sessions: which there are.
        admission: of the model.
    """

    def __init__(self, rows: StateRows, sessions: SessionTable, admission: Admission):
        self._rows = rows
        self._sessions = sessions
        self._admission = admission

    def step(
        self, owner: ReplySink, session: int, first: int, columns: Sequence[bytes], reply_mask: int
    ) -> tuple[int, Sequence[bytes], Sequence[bytes]] | None:
        """Take a step; None: it is to be submitted in the general way.

        Args:
            owner: who holds the session.
            session: that is stepped.
            first: the position that it is meant for; -1: whatever position it is.
            columns: in the spec's order, the bytes of a row.
            reply_mask: OUTPUTS and GATES.

        Returns:
            The position of the step; and in the layout's order the outputs and the gates, the bytes of a row of each.
        """
        sessions, rows = self._sessions, self._rows
        position = sessions.accepted.item(session)
        if first not in (-1, position) or not self._admission.has_room(owner, 1, reply_mask):
            return None
        try:
            made = rows.step_one(sessions.slot.item(session), columns, gates=reply_mask >= GATES)
        except Exception:
            # It is made again, to be told of in full.
            return None
        if made is None:
            return None
        # It was pending for no time. Its owner has it until it is sent.
        owner.rows += 1
        sessions.accepted[session] = sessions.position[session] = position + 1
        sessions.answered_at[session] = rows.began + rows.seconds
        outputs, gates = made
        return position, outputs, gates
