"""The lower bounds of pyproject.toml, as constraints for pip.

python -m tests.support.floors cpu train dev
"""

import sys
import tomllib

from packaging.requirements import Requirement
from packaging.version import Version

from tests.support.reference import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def requirements(*extras: str) -> list[Requirement]:
    """Of an install with these extras."""
    found = list(map(Requirement, PROJECT["dependencies"]))
    for requirement in map(Requirement, (each for extra in extras for each in PROJECT["optional-dependencies"][extra])):
        found += requirements(*requirement.extras) if requirement.name == "gatestream" else [requirement]
    return found


def floors(*extras: str) -> dict[str, Version]:
    """By name, the least version that an install with these extras may have."""
    found = {}
    for requirement in requirements(*extras):
        for bound in requirement.specifier:
            if bound.operator == ">=":
                found[requirement.name] = Version(bound.version)
    return found


if __name__ == "__main__":
    for name, version in sorted(floors(*sys.argv[1:]).items()):
        print(f"{name}=={version}")
