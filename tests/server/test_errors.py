from collections.abc import Iterator
from typing import TypeVar

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.server import errors

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
        assert isinstance(error.code, errors.Code)
        assert error.reason != pb.REASON_UNSPECIFIED
        assert kind("why", pb.REASON_NO_GATES, 2.0).reason == pb.REASON_NO_GATES


def test_the_tree_is_drawn_in_full() -> None:
    for kind in subclasses(errors.ServerError):
        assert f"─ {kind.__name__} " in (errors.__doc__ or "")
