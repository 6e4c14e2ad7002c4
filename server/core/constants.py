"""The constants of one model's sessions: what is given when a session opens, and what each session has."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from gatestream.protos.layout import Column, ModelLayout, State
from gatestream.server.arrays import Ints
from gatestream.server.errors import InvalidRequest, OutOfStep, Reason

Given = Sequence[tuple[str, bytes | memoryview]]
"""Names of constants, and the bytes of each one's row, as a client gives them."""

Values = Sequence[bytes]
"""The bytes of every constant's row, in the layout's order."""

NONE: Final[Values] = ()


class Constants:
    """By session, its constants: those that it has when all that was accepted has run.

    Args:
        layout: of the model.
        sessions: how many there may be.
    """

    def __init__(self, layout: ModelLayout, sessions: int):
        self._model = layout.name
        self._constants = {each.name: each for each in layout.constants}
        # Where they stand among the states.
        self._places = [k for k, each in enumerate(layout.states) if each.constant]
        self._of: list[Values] = [NONE] * (sessions if self._constants else 0)

    def of(self, session: int) -> Values:
        """Those of a session."""
        return self._of[session] if self._constants else NONE

    def keep(self, session: int, values: Values) -> None:
        """Note what a session has."""
        if self._constants:
            self._of[session] = values

    def forget(self, sessions: Ints) -> None:
        """These sessions have ended."""
        if self._constants:
            for session in sessions.tolist():
                self._of[session] = NONE

    def read(self, given: Given) -> dict[str, bytes]:
        """What was given, by name.

        Raises:
            InvalidRequest: a name is not that of a constant, or stands twice; a value has another size, or holds what
                is no number of its type.
        """
        values: dict[str, bytes] = {}
        for name, data in given:
            constant = self._constants.get(name)
            if constant is None:
                known = ", ".join(map(repr, self._constants)) or "none"
                raise InvalidRequest(f"constant {name[:140]!r} was given; model {self._model!r} has: {known}")
            if name in values:
                raise InvalidRequest(f"constant {name!r} was given twice; expected once")
            values[name] = value = bytes(data)
            if len(value) != constant.row_bytes:
                raise InvalidRequest(f"constant {name!r} has {len(value)} bytes; expected {_expected(constant)}")
            check_numbers(f"constant {name!r}", constant, value)
        return values

    def complete(self, given: dict[str, bytes]) -> Values:
        """Those of a new session.

        Args:
            given: as `read` gives them; what is not there is as the spec says.

        Raises:
            InvalidRequest: one must be given, and is not.
        """
        if not self._constants:
            return NONE
        for name, constant in self._constants.items():
            if constant.required and name not in given:
                raise InvalidRequest(
                    f"constant {name!r} was not given, and model {self._model!r} has no value of its own for it: "
                    f"{_expected(constant)}"
                )
        return tuple(given.get(name, constant.first().tobytes()) for name, constant in self._constants.items())

    def initial(self) -> Values:
        """Those of a session of which nothing is known yet."""
        return tuple(constant.first().tobytes() for constant in self._constants.values())

    def check_same(self, session: int, given: dict[str, bytes]) -> None:
        """Check that a session has what is given again.

        Raises:
            OutOfStep: it has another value.
        """
        if not given:
            return
        for name, value in zip(self._constants, self._of[session], strict=True):
            if given.get(name, value) != value:
                raise OutOfStep(
                    f"constant {name!r} is another than the one that the session was opened with, which it keeps; "
                    "leave it out, or open a new session",
                    Reason.CONSTANT_MISMATCH,
                )

    def check_state(self, session: int, rows: Sequence[bytes]) -> None:
        """Check that a state to be set has the constants of its session.

        Raises:
            OutOfStep: it has others.
        """
        self.check_same(session, {name: rows[place] for name, place in zip(self._constants, self._places, strict=True)})


def check_numbers(what: str, column: Column, data: bytes) -> None:
    """Check that the bytes of a row are numbers that the model takes.

    Args:
        what: to call it in an error.
        column: that it is a row of.
        data: of its size.

    Raises:
        InvalidRequest: NaN, infinity, a bool that is neither 0 nor 1, or a whole number that is none of its.
    """
    if column.all_good(column.rows(data)):
        return
    if column.dtype.kind == "f":
        raise InvalidRequest(f"{what} holds NaN or infinity; expected finite numbers", Reason.NOT_FINITE)
    rows = column.rows(data)
    if column.dtype.kind == "b":
        rows = rows.view(np.uint8)
    bad = rows[~column.good(column.rows(data))].flat[0]
    expected = f"0 to {column.limit - 1}" if isinstance(column, State) and column.limit else "0 or 1"
    raise InvalidRequest(f"{what} holds {bad}; expected {expected}", Reason.TOKEN_OUT_OF_RANGE)


def _expected(constant: State) -> str:
    return f"{constant.row_bytes} bytes ({constant.dtype.name} {list(constant.shape)})"
