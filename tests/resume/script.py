"""What a client asks for, entry by entry, and what must come of it."""

from functools import cached_property, lru_cache

from tests.resume.world import State


class Script:
    """Entries of a client's log.

    `s` is a step, `2` a message of two steps, `R` Reset, `W` SetState (to position 0), `F` Fork, `C` Close, and then
    a new session begins.

    Attributes:
        kinds: of each entry: s, R, W, F or C.
        ends: of each entry, where the message ends that it leaves in.
    """

    def __init__(self, text: str, client: int) -> None:
        self.kinds = ""
        self.ends: list[int] = []
        for each in text:
            count = int(each) if each.isdigit() else 1
            self.kinds += "s" * count if each.isdigit() else each
            self.ends += [len(self.kinds)] * count
        self.values = [100 * client + k for k in range(len(self.kinds))]
        self.after = lru_cache(maxsize=None)(self._after)

    def __len__(self) -> int:
        return len(self.kinds)

    @cached_property
    def counted(self) -> list[int]:
        """How far each entry lies behind the first, by sequence; and the end."""
        counts = [0]
        for kind in self.kinds:
            counts.append(counts[-1] + (kind in "sRW"))
        return counts

    def at(self, distance: int, least: int, most: int) -> int | None:
        """The last entry so far behind the first, of those from `least` to `most`; else any; None: there is none."""
        found = [k for k, each in enumerate(self.counted) if each == distance]
        return max((k for k in found if least <= k <= most), default=found[0] if found else None)

    def _after(self, origin: tuple[int, State], entries: int) -> tuple[int, State]:
        """Position and state after so many entries."""
        if not entries:
            return origin
        position, state = self.after(origin, entries - 1)
        kind, value = self.kinds[entries - 1], self.values[entries - 1]
        if kind == "s":
            return position + 1, (*state, value)
        if kind == "R":
            return position, ()
        if kind == "C":
            return 0, ()
        return (0, (value,)) if kind == "W" else (position, state)
