from dataclasses import dataclass


@dataclass(frozen=True)
class Fuzzed:
    line: str = ""
    violations: tuple[str, ...] = ()
