"""From a trained network to one ONNX file that describes itself, and the proof that it is the same network.

Making an artifact; only `exporter` and `sources` import torch:
    exporter               a network in, a verified file out
    sources.checkpoint     torch to ONNX: the network's cells in a Scan
    sources.module         anybody's module of torch to ONNX: sources.factory makes it, sources.weights loads it,
                           sources.signature (sources.ports, sources.arguments) says how it is called,
                           sources.recurrent what is recurrent in it, sources.chains which calls go on from each
                           other, sources.looped what a loop hands on,
                           sources.streamed carries its states (sources.kept, sources.returned), sources.unexposed finds
                           those that nobody carries, and
                           sources.tracing writes it, with sources.operators and sources.stand_ins
    graph.picked           one part of what was put side by side
    graph.scanning         a graph of one step put into a Scan
    graph.passes           what the torch exporter leaves to be done
    rewriting.naming       tensors named after the equations
    rewriting.fuse         the Scan replaced by ONNX LSTM operators
    rewriting.reform       anybody's model with its gates in sight, by rewriting.showing, or without: rewriting.unfuse
                           makes an operator its rewriting.equations, rewriting.fuse_cells undoes it
    rewriting.convolutions  those of few positions, as one product for all rows
    formats                weights in fewer bits, as arrays
    rewriting.narrow       and in the file
    spec                   the file's ModelSpec

Reading one:
    artifact               the file, its spec, its weights by the checkpoint's names
    graph.flow             what flows where; graph.initializers, the constants
    graph.constants        constants of anybody's graph; graph.folding, what depends on them alone
    graph.edit             one tensor in another's place; graph.names, names for what is added
    finder.finder          the gates, found by data flow, into a `finder.structure`
    finder.scan            in form gates, with finder.recurrence and finder.carry
    finder.fused           in form fused
    finder.ends            where a recurrence meets the rest; finder.products, what gates add up
    finder.agreement       the structure against the spec
    finder.survey          the finder.cells of anybody's model: finder.operators, and by finder.equations what is
                           written out, with finder.linear, finder.activations, finder.algebra and finder.scopes;
                           finder.claims, against the spec, with finder.loop and finder.ways
    drawing.inspection     all that a file alone can be asked, drawing.findings of anybody's; drawing.text,
                           drawing.listing and drawing.draw (drawing.views, drawing.svg) show it

Adopting anybody's file:
    adopting.adopt         a file in, an artifact out, proved; as adopting.options say what cannot be found out
    adopting.work          the file on its way
    adopting.told          what was said of it, done to its graph
    adopting.finding       which states it has, and what a step takes and gives
    adopting.comparing     what it is compared with, set up
    adopting.reading       the file, with adopting.external and adopting.layout_one
    adopting.states        a state of its graph, found by adopting.dataflow (adopting.slots, adopting.views)
    adopting.equations     cells written out, and caches
    adopting.refusals      what cannot be streamed, by adopting.over_time, adopting.frozen and adopting.growth
    adopting.explaining    the first node whose steps do not add up to the whole
    adopting.expose        states that it keeps to itself, from adopting.starts, with adopting.probing
    adopting.by_running    and those that only show when the graph is run, by adopting.running: adopting.effects of
                           moving one, and by these adopting.matching
    adopting.given         whether it contradicts those that were given
    adopting.preparing     what the file's caller had to keep: context, constants of a session
    adopting.axes          which axis is whose, in an adopting.signature: adopting.axis_choices, adopting.axis_trials
    adopting.normalise     the graph in normal form; adopting.naming, short names for its cells
    adopting.lean          what need not be computed in every run, by adopting.sizes in symbols
    adopting.describe      its spec
    adopting.reference     the file as it came, to compare with
    adopting.table         all of it, printed

The proof:
    proof.verify           all checks in order, into a proof.report
    proof.contract         inputs, outputs, operators
    proof.fingerprint      the weights against the spec
    proof.parity           the numbers against references, by way of proof.runtime, proof.walk, proof.samples and
                           proof.comparison
    proof.oracle           the equations in NumPy, independent of everything else here
    proof.rounding         how far a faithful float32 model may be from them
    proof.int8_parity      the same for int8 weights, against proof.int8_oracle
    proof.accuracy         how far weights in fewer bits are from the network, and what they save
    proof.streaming        of any recurrent model, by proof.stream_checks, run by proof.streamed, against a
                           proof.reference, as near as proof.loss allows
    proof.needed           and that each of its states matters
    errors                 what can be wrong
"""
