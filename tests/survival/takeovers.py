"""The client is killed too: another takes its session up by id, where the server says that it stands."""

import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from gatestream.client import connect
from tests.support.process import start
from tests.survival.walks import PATIENCE
from tests.survival.writer import LONGEST, inputs


@dataclass
class Takeovers:
    """What was found.

    Attributes:
        clients: that were killed.
        servers: that were killed with them.
        answered: steps that clients had been answered, in all.
        behind: of those, steps that lay behind the position taken up.
        wrong: positions that nobody had come to, or that lay behind an answer that is promised to be kept.
        different: answers from there on that are not those of an undisturbed session at this position.
    """

    clients: int = 0
    servers: int = 0
    answered: int = 0
    behind: int = 0
    wrong: int = 0
    different: int = 0

    @property
    def whole(self) -> bool:
        """Whether each position was true."""
        return self.clients > 0 and not (self.wrong or self.different)

    def __str__(self) -> str:
        return (
            f"{self.clients} clients killed, {self.servers} servers with them; of {self.answered:,} answered steps "
            f"{self.behind:,} lay behind the durable position; {self.wrong} positions were wrong, {self.different} "
            "answers from there on different"
        )


@dataclass(frozen=True)
class Life:
    """Of one client.

    Attributes:
        first: where it took the session up.
        until: up to which position it was answered.
        outputs: of the steps between.
    """

    first: int
    until: int
    outputs: bytes

    @classmethod
    def read(cls, lines: Sequence[bytes]) -> Self:
        """From what it said, the last line perhaps not to its end."""
        first, *rest = [line.split() for line in lines if line.endswith(b"\n")]
        until = int(rest[-1][0]) if rest else int(first[0])
        return cls(int(first[0]), until, b"".join(bytes.fromhex(each[1].decode()) for each in rest))


def kill_clients(
    artifacts: Sequence[Path], undisturbed: str, folder: Path, kills: int, durability: str, seed: int = 0
) -> Takeovers:
    """The proof. One session goes from client to client; every other time the server dies with the client.

    Args:
        artifacts: of the reference model, and others.
        undisturbed: the address of a server of them that nothing happens to.
        folder: for the store.
        kills: how many clients.
        durability: as the server's setting; before-answer: nothing that was answered lies behind the position.
        seed: of the moments and of the inputs.
    """
    rng, found = random.Random(seed), Takeovers()
    settings = {"deterministic": True, "store": f"sqlite:{folder}/clients-{durability}.db", "durability": durability}
    server = start(*artifacts, **settings)
    settings["listen"] = server.address
    lives: list[Life] = []
    died = False
    try:
        for kill in range(kills + 1):
            command = [sys.executable, "-m", "tests.survival.writer", server.address, "one"]
            with subprocess.Popen(
                [*command, "resume" if kill else "create", str(seed)], stdout=subprocess.PIPE
            ) as writer:
                assert writer.stdout is not None
                lines = [writer.stdout.readline() for _ in range(rng.randint(1, 60))]
                with_server = kill % 2 == 0
                if with_server:
                    server.kill()
                writer.kill()
                lives.append(Life.read([*lines, *writer.stdout.read().splitlines(keepends=True)]))
            found.clients += 1
            if with_server:
                found.servers += 1
                server = start(*artifacts, **settings)
            if kill:
                # What the server did that died, or did not, with the client before this one.
                before, now = lives[-2:]
                found.behind += max(before.until - now.first, 0)
                kept = not died or durability == "before-answer"
                found.wrong += not (before.until if kept else 0) <= now.first <= before.until + LONGEST
            died = with_server
    finally:
        server.close()
    found.answered = sum(life.until - life.first for life in lives)
    with connect(undisturbed, timeout=PATIENCE) as client:
        expected = np.asarray(client.session("reber").run(inputs(seed, 0, max(life.until for life in lives))))
    for life in lives:
        ys = np.frombuffer(life.outputs, np.float32).reshape(life.until - life.first, -1)
        found.different += int((ys != expected[life.first : life.until]).any(axis=1).sum())
    return found
