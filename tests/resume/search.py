"""Going through the model: breadth first, which finds the shortest way to a violation, or at random, which goes on."""

import random
from array import array
from collections.abc import Iterator
from dataclasses import dataclass

from tests.resume.client import Clients, new
from tests.resume.faults import faults
from tests.resume.rules import Setting, Violation
from tests.resume.server import Servers
from tests.resume.world import World


@dataclass(frozen=True)
class Found:
    """How a search ended.

    Attributes:
        verdict: "" where all is well.
        trace: the steps that led there.
        states: different ones that were seen, or steps of random walks.
        complete: every reachable state was seen.
    """

    verdict: str
    trace: list[str]
    states: int
    complete: bool


class Search:
    """A setting, and how the world goes on in it."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.clients = Clients(setting)
        self.servers = Servers(setting)

    def begin(self) -> World:
        """Nothing has happened."""
        return World(
            clients=new(self.setting),
            streams=(),
            slots=(None,) * 4,
            writes=(),
            records=(None, None),
            reachable=True,
            intact=True,
            faults=self.setting.faults,
            evictions=self.setting.evictions,
        )

    def steps(self, w: World) -> Iterator[tuple[str, World | Violation]]:
        """All that may happen next."""
        yield from self.clients.steps(w)
        yield from self.servers.steps(w)
        yield from faults(w, self.clients)

    def _ended(self, w: World) -> bool:
        return self.clients.done(w) or any(each.epoch >= self.setting.epochs for each in w.clients)

    def all(self, limit: int) -> Found:
        """See every state, breadth first, up to so many; then whether the end can be reached from each of them."""
        first = self.begin()
        numbers = {first: 0}
        worlds: list[World | None] = [first]
        came_from = array("l", [-1])
        back: list[list[int]] = [[]]
        goals: list[int] = []
        at = 0
        while at < len(worlds) and len(worlds) < limit:
            w = worlds[at]
            assert w is not None
            worlds[at] = None
            if self._ended(w):
                goals.append(at)
            if not self.clients.done(w):
                for label, after in self.steps(w):
                    if isinstance(after, Violation):
                        return Found(str(after), [*self._trace(came_from, at), label], len(worlds), complete=False)
                    number = numbers.setdefault(after, len(worlds))
                    if number == len(worlds):
                        worlds.append(after)
                        came_from.append(at)
                        back.append([])
                    back[number].append(at)
            at += 1
        if at < len(worlds):
            return Found("", [], len(worlds), complete=False)
        stuck = _unreached(back, goals)
        if stuck is not None:
            return Found(
                "from here there is no way to the end", self._trace(came_from, stuck), len(worlds), complete=True
            )
        return Found("", [], len(worlds), complete=True)

    def _trace(self, came_from: "array[int]", at: int) -> list[str]:
        """The steps that lead to a state, found again from the numbers of those on the way."""
        way = [at]
        while came_from[way[-1]] >= 0:
            way.append(came_from[way[-1]])
        numbers = {self.begin(): 0}
        worlds = [self.begin()]
        labels: list[str] = []
        wanted = way[-2::-1] if len(way) > 1 else []
        # The numbers are those of the search: it is made again up to the last of them.
        at = 0
        parents: list[tuple[int, str]] = [(-1, "")]
        while wanted and len(worlds) <= wanted[-1]:
            if not self.clients.done(worlds[at]):
                for label, after in self.steps(worlds[at]):
                    if not isinstance(after, Violation) and numbers.setdefault(after, len(worlds)) == len(worlds):
                        worlds.append(after)
                        parents.append((at, label))
            at += 1
        here = wanted[-1] if wanted else 0
        while here > 0:
            here, label = parents[here]
            labels.append(label)
        return labels[::-1]

    def walk(self, walks: int, seed: int, steps: int = 200) -> Found:
        """Go at random, so often; the shortest way to a violation that was met."""
        rng = random.Random(seed)
        best = Found("", [], 0, complete=False)
        made = 0
        for _ in range(walks):
            w = self.begin()
            trace: list[str] = []
            faulty = rng.choice((0.02, 0.05, 0.1, 0.3))
            while len(trace) < (len(best.trace) - 1 if best.verdict else steps) and not self._ended(w):
                calm = [*self.clients.steps(w), *self.servers.steps(w)]
                wild = list(faults(w, self.clients))
                among = wild if wild and (not calm or rng.random() < faulty) else calm
                if not among:
                    return Found("nothing can happen any more", trace, made, complete=False)
                label, after = rng.choice(among)
                trace.append(label)
                made += 1
                if isinstance(after, Violation):
                    best = Found(str(after), trace, made, complete=False)
                    break
                w = after
        return Found(best.verdict, best.trace, made, complete=False)


def _unreached(back: list[list[int]], goals: list[int]) -> int | None:
    """The first state from which no goal is reached, if there is one."""
    good = bytearray(len(back))
    for each in goals:
        good[each] = 1
    todo = list(goals)
    while todo:
        for each in back[todo.pop()]:
            if not good[each]:
                good[each] = 1
                todo.append(each)
    return next((k for k, each in enumerate(good) if not each), None)
