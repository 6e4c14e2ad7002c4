"""What is taken out of sessions' queues before its turn comes."""

import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from gatestream.server.arrays import Ints
from gatestream.server.core.answers import Answers
from gatestream.server.core.batches import OneEntry
from gatestream.server.core.controls import Control
from gatestream.server.core.intake import Intake
from gatestream.server.core.run import Run
from gatestream.server.core.session_queues import Place, SessionQueues
from gatestream.server.core.sessions import SessionTable
from gatestream.server.errors import Refused, session_closed


class QueueEdits:
    """Takes work out of the queues of one model's sessions, and answers it.

    Args:
        sessions: which there are.
        intake: what came and is not queued yet.
        queues: theirs.
        answers: to who asked.
        under_way: the runs that are made now, and those that are to be made again.
    """

    def __init__(
        self,
        sessions: SessionTable,
        intake: Intake,
        queues: SessionQueues,
        answers: Answers,
        under_way: Sequence[Iterable[Run]],
    ):
        self._sessions = sessions
        self._intake = intake
        self._queues = queues
        self._answers = answers
        self._under_way = under_way

    def take_in(self) -> None:
        """Put what came since the last run into the queues; owners hear what is wrong with it."""
        if (batch := self._intake.take()) is not None:
            self._queues.add(batch)

    def idle(self, sessions: Ints) -> Ints:
        """Those of the sessions that have nothing queued."""
        self.take_in()
        return sessions[self._queues.scheduler.idle(sessions)]

    def steps(self, session: int) -> int:
        """Steps that stand in a session's queue; while its control has its turn, those behind that."""
        self.take_in()
        return self._queues.scheduler.steps(session)

    def is_last(self, session: int) -> bool:
        """Whether nothing stands behind the control of a session that has its turn."""
        self.take_in()
        return self._queues.scheduler.last(session)

    def empty(self, sessions: Ints, why: Refused) -> None:
        """Refuse all that stands in the queues of sessions, which have ended."""
        self.take_in()
        self._answers.refuse(self._drop(sessions), lambda _: why)

    def cut_off(self, sessions: Ints, why: Refused, *, until_moved: bool = False) -> None:
        """Refuse the steps that stand in the queues of sessions and are not under way; controls are done.

        Args:
            sessions: which.
            why: for those who asked.
            until_moved: only the steps before the first control that `moves` its session.
        """
        self.take_in()

        def stays(number: int) -> bool:
            return until_moved and isinstance(item := self._queues[number], Control) and item.moves

        running: dict[int, int] = {}
        for run in itertools.chain(*self._under_way):
            if run.tick is not None:
                running.update(zip(run.tick.ids.tolist(), run.tick.lengths.tolist(), strict=True))
        dropped, cut, left = self._queues.scheduler.drop_steps(sessions, running, stays)
        self._answers.refuse(self._queues.places(dropped), lambda _: why)
        self._answers.shorten(self._queues.places(cut))
        for session, steps in left.items():
            if self._sessions.accepted[session] >= 0:
                self._sessions.accepted[session] = self._sessions.position[session] + steps

    def refuse_behind(self, session: int, why: Refused) -> None:
        """Refuse the steps that stand in a session's queue behind the control that has its turn."""
        self._answers.refuse(self._behind(session), lambda _: why, keep_musts=True)

    def withdraw_behind(self, session: int) -> list[OneEntry]:
        """Take the steps out of a session's queue that stand behind the control that has its turn, up to the next one.

        What stands further behind is refused.
        """
        behind = self._behind(session)
        steps = list(itertools.takewhile(lambda place: not isinstance(place.item, Control), behind))
        withdrawn = [place.item.one(place.entry) for place in steps]
        self._answers.shorten(steps)
        for place in steps:
            self._queues.count_off(place.item, 1)
        closed = session_closed()
        self._answers.refuse(behind[len(steps) :], lambda _: closed)
        return withdrawn

    def _behind(self, session: int) -> list[Place]:
        """Empty the queue of a session whose control has its turn and is done; what stood behind that."""
        self.take_in()
        first, *behind = self._drop(np.array([session]))
        self._answers.done(first.item, 1)
        return behind

    def _drop(self, sessions: Ints) -> list[Place]:
        return self._queues.places(self._queues.scheduler.drop(sessions))
