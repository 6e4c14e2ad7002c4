"""What a model was made from, as the proof asks it."""

from typing import Protocol

from gatestream.export.proof.streamed import Named


class Reference(Protocol):
    """What a model was made from, run by its own conventions."""

    @property
    def name(self) -> str:
        """What it is called in a report: "source", "torch"."""

    def whole(self, inputs: Named, constants: Named) -> Named:
        """The outputs of new sessions, each [rows, time, *shape], by the artifact's names.

        Where all steps would take too long, it is those of the first, `LEAST_STEPS` at least.

        Args:
            inputs: each [rows, time, *shape].
            constants: of each session, [rows, *shape].
        """

    def step(self, inputs: Named, states: Named) -> tuple[Named, Named] | None:
        """One step of each row from given states, or None where it cannot be started from any state but its own.

        Args:
            inputs: each [rows, 1, *shape].
            states: before, each [rows, *shape], by the artifact's names.

        Returns:
            The outputs, each [rows, 1, *shape], and the states after.
        """
