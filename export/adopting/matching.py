"""Which output belongs to which state, by what moving the state did to each: where nothing else can be."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gatestream.export.adopting.effects import Effect
from gatestream.export.adopting.signature import End

ByOutput = Mapping[str, Effect]
"""What moving an input did to each output."""


@dataclass(frozen=True, slots=True)
class Match:
    """A state's output.

    Attributes:
        end: the output.
        how: it was found.
        sure: the state is there to the last bit, as no input of a step would be.
        same: it is what it was.
    """

    end: End
    how: str
    sure: bool
    same: bool


def kept(group: Sequence[End], candidates: Sequence[End], effects: Mapping[str, ByOutput]) -> dict[str, Match]:
    """The starts of which one output alone keeps what they are moved to, and keeps it of no other.

    Args:
        group: inputs of one shape and type.
        candidates: outputs of that shape and type.
        effects: by input.
    """
    found: dict[str, Match] = {}
    for what in ("copies", "keeps"):
        with_it = {s.name: [c for c in candidates if getattr(effects[s.name][c.name], what)] for s in group}
        for start in group:
            ends = with_it[start.name]
            if start.name in found or len(ends) != 1:
                continue
            if [s.name for s in group if ends[0] in with_it[s.name]] == [start.name]:
                effect = effects[start.name][ends[0].name]
                how = f"'{ends[0].name}' {'is what it is' if effect.same else 'keeps a number that it is moved to'}"
                found[start.name] = Match(ends[0], how, what == "copies", effect.same)
    return found


def only_matching(starts: Sequence[End], ends: Sequence[End], effects: Mapping[str, ByOutput]) -> dict[str, End] | None:
    """The one way to give each start an end of its own that moves with it; None: there is none, or there are several.

    Where there is only one, some start has one end left, or some end one start, until all are taken.
    """
    found: dict[str, End] = {}
    edges = np.array([[effects[a.name][b.name].moves for b in ends] for a in starts], np.bool_).reshape(
        len(starts), len(ends)
    )
    if edges.any(axis=0).sum() != len(starts):
        return None
    while len(found) < len(starts):
        rows, columns = edges.sum(axis=1), edges.sum(axis=0)
        if 1 in rows:
            row = int(np.flatnonzero(rows == 1)[0])
            column = int(edges[row].argmax())
        elif 1 in columns:
            column = int(np.flatnonzero(columns == 1)[0])
            row = int(edges[:, column].argmax())
        else:
            return None
        found[starts[row].name] = ends[column]
        edges[row] = edges[:, column] = False
    return found
