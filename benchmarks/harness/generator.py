"""The load generator: built where it is used."""

import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent.parent / "load"


class NoCompilerError(Exception):
    """The generator cannot be built here; the message says what to install."""


@cache
def build() -> Path:
    """Compile what has changed; the program.

    Raises:
        NoCompilerError: no C++ compiler, or no make.
        subprocess.CalledProcessError: it does not compile; the compiler has said why.
    """
    for program, package in (("g++", "g++"), ("make", "make")):
        if shutil.which(program) is None:
            raise NoCompilerError(
                f"the load generator is C++17 and {program} is not installed; on Debian: apt-get install {package}"
            )
    subprocess.run(["make", "--silent", "-j2", "-C", FOLDER], check=True)
    return FOLDER / "build" / "load"
