"""From a trained network to one ONNX file that describes itself, and the proof that it is the same network.

Making an artifact; only `exporter` and `trace` import torch:
    exporter      a network in, a verified file out
    trace         torch to ONNX: the network's cells in a Scan
    passes        what the torch exporter leaves to be done
    naming        tensors named after the equations
    fuse          the Scan replaced by ONNX LSTM operators
    precision     weights in fewer bits, as arrays
    narrow        and in the file
    describe      the file's ModelSpec

Reading one:
    artifact      the file, its spec, its weights by the checkpoint's names
    finder        the gates, found by data flow, into a `structure`;
                  scan_finder, recurrence and carry for form gates, lstm_finder for form fused,
                  flow, ends and initializers for both, products for what gates add up
    inspection    all that a file alone can be asked; text and draw (svg) show it

The proof:
    verify        all checks in order, into a report
    contract      inputs, outputs, operators
    agreement     the structure against the spec
    fingerprint   the weights against the spec
    parity        the numbers against references, by way of runtime, walk, samples and comparison
    oracle        the equations in NumPy, independent of everything else here
    rounding      how far a faithful float32 model may be from them
    int8_parity   the same for int8 weights, against int8_oracle
    accuracy      how far weights in fewer bits are from the network, and what they save
    errors        what can be wrong
"""
