"""What README.md tells its readers to run."""

import re
from dataclasses import dataclass

from tests.support.reference import ROOT

README = (ROOT / "README.md").read_text()
ADDRESS = re.compile(r"127\.0\.0\.1:\d+")
"""Of a server in the examples."""


@dataclass(frozen=True)
class Block:
    """A fenced block of code."""

    language: str
    code: str

    @property
    def commands(self) -> list[str]:
        """Of a block in the shell's language: its lines."""
        return self.code.strip().splitlines() if self.language == "sh" else []


def blocks() -> list[Block]:
    """All of them, in order."""
    return [Block(*found) for found in re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)]


def commands(program: str) -> list[str]:
    """Every command line that starts with a program."""
    return [line for block in blocks() for line in block.commands if line.split()[0] == program]


def commands_with(line: str) -> list[str]:
    """Every command line of the block that has this one."""
    (found,) = (block.commands for block in blocks() if line in block.commands)
    return found
