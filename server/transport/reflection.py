"""Server reflection, in both of its versions: which services there are, and the files that describe them."""

from collections.abc import Iterable
from typing import Any, Final

from google.protobuf import text_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import aio

SERVICE: Final[Any] = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]
"""Of both versions: they differ in the name of the package."""
NAMES: Final = (SERVICE.full_name, SERVICE.full_name.replace("v1alpha", "v1"))


def servicer(services: Iterable[Any]) -> aio.ReflectionServicer:
    """What answers reflection.

    Args:
        services: descriptors of those that there are, besides reflection itself.
    """
    pool = DescriptorPool()
    for service in services:
        _add(service.file, pool)
    v1alpha = _add(SERVICE.file, pool)
    pool.Add(text_format.Parse(text_format.MessageToString(v1alpha).replace("v1alpha", "v1"), FileDescriptorProto()))
    return aio.ReflectionServicer([*NAMES, *(service.full_name for service in services)], pool)


def _add(file: Any, pool: DescriptorPool) -> FileDescriptorProto:
    for dependency in file.dependencies:
        _add(dependency, pool)
    copy = FileDescriptorProto()
    file.CopyToProto(copy)
    pool.Add(copy)
    return copy
