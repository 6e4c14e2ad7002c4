"""A graph of one step in a Scan over time gives what it gives step after step."""

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from gatestream.export.graph.scanning import over_time


def step() -> ir.Model:
    """`s' = decay * s + x`, `y = s' - bias`, where bias is an input of the whole run."""
    return ir.from_onnx_text("""
        <ir_version: 10, opset_import: ["" : 20]>
        step (float[batch, 3] bias, float[batch, 3] x, float[batch, 3] s) => (float[batch, 3] y, float[batch, 3] s_next)
        <float[3] decay = {0.5, 0.25, 2.0}>
        {
            left = Mul(decay, s)
            s_next = Add(left, x)
            y = Sub(s_next, bias)
        }
    """)


def test_over_time_is_step_after_step() -> None:
    model = step()
    over_time(model, ["x"], {"s": "s_next"})
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    assert [(each.name, each.shape) for each in session.get_inputs()] == [
        ("bias", ["batch", 3]),
        ("x", ["batch", "time", 3]),
        ("s", ["batch", 3]),
    ]
    rng = np.random.default_rng(0)
    x, s, bias = (rng.standard_normal(shape, dtype=np.float32) for shape in [(2, 5, 3), (2, 3), (2, 3)])
    y, after = session.run(["y", "s_next"], {"x": x, "s": s, "bias": bias})
    for t in range(5):
        s = np.array([0.5, 0.25, 2.0], np.float32) * s + x[:, t]
        np.testing.assert_array_equal(y[:, t], s - bias)
    np.testing.assert_array_equal(after, s)


def test_names_that_are_none_are_said() -> None:
    with pytest.raises(ValueError, match=r"\['z'\] are no inputs or outputs"):
        over_time(step(), ["z"], {"s": "s_next"})
