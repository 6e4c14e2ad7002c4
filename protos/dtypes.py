"""The data types of a spec, as NumPy has them and as they lie on the wire: little-endian."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

DTYPES: Final[Mapping[pb.DataType, np.dtype[Any]]] = {
    pb.DATA_TYPE_FLOAT32: np.dtype("<f4"),
    pb.DATA_TYPE_INT64: np.dtype("<i8"),
    pb.DATA_TYPE_FLOAT16: np.dtype("<f2"),
    pb.DATA_TYPE_FLOAT64: np.dtype("<f8"),
    pb.DATA_TYPE_INT32: np.dtype("<i4"),
    pb.DATA_TYPE_INT16: np.dtype("<i2"),
    pb.DATA_TYPE_INT8: np.dtype("i1"),
    pb.DATA_TYPE_UINT8: np.dtype("u1"),
    pb.DATA_TYPE_BOOL: np.dtype("?"),
}
