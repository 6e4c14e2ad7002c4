"""The data types of a spec, as NumPy has them and as they lie on the wire: little-endian."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

DTYPES: Final[Mapping[pb.DataType, np.dtype[Any]]] = {
    pb.DATA_TYPE_FLOAT32: np.dtype("<f4"),
    pb.DATA_TYPE_INT64: np.dtype("<i8"),
}
