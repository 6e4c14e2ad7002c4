import base64

import numpy as np
import pytest

from gatestream.server.core.sessions import SessionTable
from gatestream.server.errors import Exhausted


def test_a_session_made_without_an_id_gets_one_of_128_bits() -> None:
    table = SessionTable(3)
    ids = {table.tenants.session_id(table.create("", "", 0.0)) for _ in range(3)}
    assert len(ids) == 3
    assert all(len(base64.urlsafe_b64decode(session_id + "==")) == 16 for session_id in ids)


def test_a_full_table_refuses_and_says_when_to_try_again() -> None:
    table = SessionTable(1)
    slot = table.create("", "a", 0.0)
    with pytest.raises(Exhausted, match="all 1 sessions are taken") as caught:
        table.create("", "b", 0.0)
    assert caught.value.retry_after > 0
    table.remove(np.array([slot]))
    with pytest.raises(Exhausted):
        table.create("", "b", 0.0)  # its rows may still be written
    table.free(np.array([slot]))
    assert table.create("", "b", 0.0) == slot


def test_a_removed_session_leaves_nothing_to_its_slot() -> None:
    table = SessionTable(1)
    slot = table.create("", "a", 5.0)
    table.position[slot] = table.accepted[slot] = 7
    table.owner[slot] = object()
    table.remove(np.array([slot]))
    table.free(np.array([slot]))
    assert table.last_answered_before(np.inf).tolist() == []
    again = table.create("", "b", 6.0)
    assert (again, table.position[again], table.accepted[again], table.owner[again]) == (slot, 0, 0, None)


def test_pages_go_on_where_the_last_one_ended() -> None:
    table = SessionTable(10)
    slots = [table.create("", "", 0.0) for _ in range(7)]
    first = table.page("", -1, 3)
    last = int(table.serial[first[-1]])
    table.remove(np.array([first[-1]]))
    assert table.page("", last, 2) == slots[3:5]
    assert first + table.page("", last, 10) == slots


def test_pages_are_in_the_order_of_the_tenants_own_sessions() -> None:
    table = SessionTable(10)
    mine, theirs = [], []
    for _ in range(3):
        theirs.append(table.create("b", "", 0.0))
        mine.append(table.create("a", "", 0.0))
    table.detach(np.array(mine))
    table.leave(np.array([mine[1]]))
    assert table.page("a", -1, 10) == [mine[0], mine[2]]
    assert table.serial[mine].tolist() == [0, 1, 2], "it tells nothing of the others'"
    table.remove(np.array([theirs[0], mine[1]]))
    table.free(np.array([mine[1], theirs[0]]))
    assert table.create("a", "", 0.0) == theirs[0]
    assert table.page("a", -1, 10) == [mine[0], mine[2], theirs[0]]
    assert table.page("a", 2, 10) == [theirs[0]]
    assert table.page("c", -1, 10) == []


def test_a_tenant_has_its_share_and_no_more() -> None:
    table = SessionTable(5)
    table.share = 2
    mine = [table.create("a", "", 0.0) for _ in range(2)]
    with pytest.raises(Exhausted, match="all 2 of this tenant's sessions are taken") as caught:
        table.create("a", "", 0.0)
    assert caught.value.retry_after > 0
    table.create("b", "", 0.0)
    table.detach(np.array(mine))
    table.leave(np.array([mine[0]]))
    with pytest.raises(Exhausted, match="this tenant's"):
        table.create("a", "", 0.0)  # it has yet to end
    table.remove(np.array(mine[:1]))
    table.create("a", "", 0.0)
