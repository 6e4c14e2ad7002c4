"""From a trained network to one ONNX file that describes itself, and the proof that it is the same network.

Making an artifact (the only modules that import torch):
    exporter    a network or a checkpoint in, a verified file out
    trace       torch to ONNX: the cell's equations in a Scan

Shaping the graph:
    passes      what the torch exporter leaves to be done
    fuse        the Scan replaced by the ONNX LSTM operator
    roles       the four gates: names, order in every packed layout

Reading an artifact:
    artifact    the file and its ModelSpec
    structure   the gates, found by data flow
    inspection  everything that a file alone can be asked
    text, draw  the same, printed and drawn

Proof:
    oracle      the equations in NumPy, independent of everything else here
    parity      carried steps, chunks, batches and ragged rows against references
    verify      all checks, in order, into a report
"""
