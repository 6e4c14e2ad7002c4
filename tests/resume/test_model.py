"""The model of the protocol of docs/sessions.md, as far as seconds reach; `make test-model` goes on."""

from dataclasses import replace

import pytest

from tests.resume.rules import Setting
from tests.resume.search import Search
from tests.resume.settings import MUTANTS, SHORT, WALKS

# Rules whose violation takes more than seconds to find.
_FAR = {"exact slot", "newest", "equal epoch", "handle", "first"}


@pytest.mark.parametrize("setting", SHORT, ids=str)
def test_nothing_goes_wrong_in_any_state(setting: Setting) -> None:
    found = Search(setting).all(15_000)
    assert not found.verdict, "\n".join(found.trace)
    assert found.states > 1_000


@pytest.mark.parametrize("setting", WALKS, ids=str)
def test_nothing_goes_wrong_at_random(setting: Setting) -> None:
    found = Search(setting).walk(60, seed=7)
    assert not found.verdict, "\n".join(found.trace)
    assert found.states > 1_000


@pytest.mark.parametrize("rule", sorted(MUTANTS.keys() - _FAR))
def test_without_any_rule_something_goes_wrong(rule: str) -> None:
    setting = MUTANTS[rule]
    found = Search(replace(setting, off=setting.off | {rule})).all(60_000)
    assert found.verdict, f"nothing went wrong in {found.states} states"
