import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from gatestream.server.core.tenants import Tenants
from gatestream.server.errors import AlreadyExists, InvalidRequest, NotFound, Reason

NAMES, IDS, CAPACITY = ("a", "b", "c"), ("s", "t", "u"), 8


def test_tenants_do_not_see_each_other() -> None:
    tenants = Tenants(2)
    for session, tenant in enumerate("ab"):
        assert tenants.enter(session, tenant, "same-name") == 0
    assert [tenants.find(tenant, "same-name") for tenant in "ab"] == [0, 1]
    with pytest.raises(NotFound, match="no session 'same-name'"):
        tenants.find("c", "same-name")
    assert tenants.of("a").tolist() == [0]


@pytest.mark.parametrize("session_id", ["", " ", "a/b", "x" * 129, "ü", "a\n"])
def test_ids_of_another_form_are_refused(session_id: str) -> None:
    with pytest.raises(InvalidRequest, match="expected 1 to 128 characters") as caught:
        Tenants(1).check_free("", session_id)
    assert caught.value.reason == Reason.SESSION_ID_INVALID


def test_a_taken_id_is_refused() -> None:
    tenants = Tenants(2)
    tenants.enter(0, "", "a")
    with pytest.raises(AlreadyExists, match="'a' exists"):
        tenants.check_free("", "a")
    tenants.check_free("", "b")


class Counted(RuleBasedStateMachine):
    """Sessions come and go; a list of who has which says what must be known of them."""

    def __init__(self) -> None:
        super().__init__()
        self.tenants = Tenants(CAPACITY)
        # By session: whose, under which id (None: it is leaving), and whether it has a slot.
        self.there: dict[int, tuple[str, str | None, bool]] = {}
        self.ever: dict[str, int] = dict.fromkeys(NAMES, 0)

    @precondition(lambda self: len(self.there) < CAPACITY)
    @rule(tenant=st.sampled_from(NAMES), session_id=st.sampled_from(IDS))
    def enter(self, tenant: str, session_id: str) -> None:
        if self.tenants.get(tenant, session_id) is None:
            session = min(set(range(CAPACITY)) - self.there.keys())
            assert self.tenants.enter(session, tenant, session_id) == self.ever[tenant]
            self.there[session] = tenant, session_id, False
            self.ever[tenant] += 1

    @precondition(lambda self: self.there)
    @rule(data=st.data())
    def have_a_slot_or_none(self, data: st.DataObject) -> None:
        session = data.draw(st.sampled_from(sorted(self.there)))
        tenant, session_id, slot = self.there[session]
        self.tenants.count_slot(session, -1 if slot else 1)
        self.there[session] = tenant, session_id, not slot

    @precondition(lambda self: self.there)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        some = data.draw(st.sets(st.sampled_from(sorted(self.there)), min_size=1))
        named = [session for session in some if self.there[session][1] is not None]
        self.tenants.forget_ids(np.array(named, np.int64))
        for session in named:
            tenant, _, slot = self.there[session]
            self.there[session] = tenant, None, slot

    @precondition(lambda self: any(session_id is None for _, session_id, _ in self.there.values()))
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        leaving = sorted(session for session, (_, session_id, _) in self.there.items() if session_id is None)
        some = sorted(data.draw(st.sets(st.sampled_from(leaving), min_size=1)))
        with_slot = [session for session in some if self.there[session][2]]
        self.tenants.remove(np.array(some), np.array(with_slot, np.int64))
        for session in some:
            del self.there[session]

    @rule(known=st.sets(st.sampled_from(NAMES)))
    def forget(self, known: set[str]) -> None:
        self.tenants.forget_all_but(known)
        for tenant in NAMES:
            if tenant not in known and not any(whose == tenant for whose, _, _ in self.there.values()):
                self.ever[tenant] = 0

    def teardown(self) -> None:
        tenants, there = self.tenants, self.there
        assert tenants.there().tolist() == sorted(there)
        for tenant in NAMES:
            mine = sorted(session for session, (whose, _, _) in there.items() if whose == tenant)
            named = {session_id: session for session in mine if (session_id := there[session][1]) is not None}
            assert tenants.of(tenant).tolist() == mine
            assert tenants.those_of(tenant, np.arange(CAPACITY)).tolist() == mine
            assert tenants.count(tenant) == len(named)
            assert tenants.taken(tenant) == (len(mine), sum(there[session][2] for session in mine))
            assert [tenants.get(tenant, session_id) for session_id in IDS] == [named.get(each) for each in IDS]
        known = sorted(session for session, (_, session_id, _) in there.items() if session_id is not None)
        assert len(tenants) == len(known)
        whose, ids = tenants.names(np.array(known, np.int64))
        assert [(a, b) for a, b in zip(whose, ids, strict=True)] == [there[session][:2] for session in known]
        assert [(tenants.tenant(each), tenants.session_id(each)) for each in known] == [there[k][:2] for k in known]
        slots = np.array(sorted(session for session, (_, _, slot) in there.items() if slot), np.int64)
        assert tenants.check(slots) == []


TestCounted = Counted.TestCase
TestCounted.settings = settings(max_examples=50, stateful_step_count=30)
