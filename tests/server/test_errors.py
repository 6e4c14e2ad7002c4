from collections.abc import Iterator
from typing import TypeVar

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.server import errors
from gatestream.server.errors import Code, Reason

_E = TypeVar("_E", bound=Exception)


def subclasses(kind: type[_E]) -> Iterator[type[_E]]:
    for subclass in kind.__subclasses__():
        yield subclass
        yield from subclasses(subclass)


def test_every_refusal_has_a_status_and_a_reason() -> None:
    kinds = list(subclasses(errors.Refused))
    assert kinds
    for kind in kinds:
        error = kind("why")
        assert isinstance(error.code, Code)
        assert error.reason != Reason.UNSPECIFIED
        assert kind("why", Reason.NO_GATES, 2.0).reason == Reason.NO_GATES


def test_the_tree_is_drawn_in_full() -> None:
    for kind in subclasses(errors.ServerError):
        assert f"─ {kind.__name__} " in (errors.__doc__ or "")


def test_reasons_are_those_of_the_wire() -> None:
    assert [reason.value for reason in Reason] == pb.Reason.keys()
    assert [f"REASON_{reason.name}" for reason in Reason] == pb.Reason.keys()
