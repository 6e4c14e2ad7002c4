"""Explore the model far, with and without its rules: `python -m tests.resume`."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from time import perf_counter

import click

from tests.resume.rules import RULES, Setting
from tests.resume.search import Found, Search
from tests.resume.settings import FAR, LONG, MUTANTS, SHORT, SPARE, WALKS


@click.command()
@click.option("--states", default=1_500_000, show_default=True, help="Explored of each setting, breadth first.")
@click.option("--walks", default=20_000, show_default=True, help="Taken at random in each setting.")
@click.option("--seed", default=1, show_default=True)
def main(states: int, walks: int, seed: int) -> None:
    """Search the model of docs/sessions.md: nothing may go wrong, and without almost any rule something does."""
    unexpected = False
    for setting, rule, far, wrong in _searches():
        began = perf_counter()
        if rule:
            setting = replace(setting, off=setting.off | {rule})
        found = Search(setting).walk(walks, seed) if far else Search(setting).all(states)
        unexpected |= _told(setting, rule, far, found, perf_counter() - began, wrong)
    sys.exit(unexpected)


def _searches() -> Iterator[tuple[Setting, str, bool, bool]]:
    """Settings, the rule that is switched off, whether to walk at random, whether something is to go wrong."""
    for setting in (*SHORT, *LONG):
        yield setting, "", False, False
    for setting in WALKS:
        yield setting, "", True, False
    for rule, setting in MUTANTS.items():
        yield setting, rule, False, True
    for rule, setting in FAR.items():
        yield setting, rule, True, True
    for rule, setting in SPARE.items():
        yield setting, rule, False, False


def _told(setting: Setting, rule: str, far: bool, found: Found, seconds: float, wrong: bool) -> bool:
    """Print how a search ended; whether that was not to be expected."""
    name = f"without {RULES[rule]}" if rule else "all rules"
    how = f"{found.verdict}, after {len(found.trace)} steps" if found.verdict else "nothing goes wrong"
    what = "steps at random" if far else "states, all there are" if found.complete else "states"
    print(f"{name}\n    {setting}: {found.states} {what}, {seconds:.1f} s: {how}", flush=True)
    if bool(found.verdict) == wrong:
        return False
    print("    UNEXPECTED", *found.trace, sep="\n        ", flush=True)
    return True


if __name__ == "__main__":
    main()
