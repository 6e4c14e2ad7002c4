"""Every rule switched off, in a setting in which that is found: a model that cannot fail shows nothing."""

from tests.resume.rules import RULES, Setting

MUTANTS: dict[str, Setting] = {
    # Each of the two does the other's work, where the client sees what it is told.
    "first": Setting(("ss", "s"), off=frozenset({"handle"})),
    "handle": Setting(("ss", "s"), off=frozenset({"first"})),
    "sequence": Setting(("sRs",), window=2, evictions=1, off=frozenset({"alone"})),
    "epoch": Setting(("sss",)),
    "proposes": Setting(("s",)),
    "exactly": Setting(("ss",)),
    "newest": Setting(("2", "s"), before=True),
    "taken up": Setting(("s", "s")),
    "opened": Setting(("sRs",)),
    "one stream": Setting(("ss",)),
    "acknowledged": Setting(("ss",)),
    "acknowledges": Setting(("sss",), window=2),
    "alone": Setting(("sRs",), window=2),
    "equal epoch": Setting(("ss", "s")),
    "one write": Setting(("sWs",)),
    "anchor": Setting(("ss",)),
    "durable": Setting(("2s",)),
    "tombstone": Setting(("sCs",)),
    "quiet close": Setting(("sC",), window=2),
    "exact slot": Setting(("2",), evictions=1),
    "set stored": Setting(("sWs",)),
    "quiet set": Setting(("sWs",), window=2),
    "set sequence": Setting(("Wss",), off=frozenset({"set epoch"})),
    "set epoch": Setting(("Wss",), off=frozenset({"set sequence"})),
    "supposes": Setting(("sWs",)),
    "fork stored": Setting(("Fs", "s")),
    "handover": Setting(("s", "s"), faults=0),
    "hands over stored": Setting(("s", "s"), faults=0),
    "releases": Setting(("ss",)),
}
# Found by walking at random: the shortest way is too long to be found breadth first.
FAR: dict[str, Setting] = {"term": Setting(("ss", "s"), faults=2)}
# Nothing goes wrong without these as far as the model sees: the others stand behind them.
SPARE: dict[str, Setting] = {
    "own epoch": Setting(("sWs",), evictions=1),
    "report": Setting(("2",), before=True, evictions=1),
    "unknown": Setting(("Wss",)),
}
assert {*MUTANTS, *FAR, *SPARE} == RULES.keys()

# The rules as they are: nothing may go wrong. Those of the first are searched in seconds.
SHORT = (
    Setting(("2s",)),
    Setting(("sRs",)),
    Setting(("Wss",)),
    Setting(("sCs",)),
    Setting(("2s",), before=True),
    Setting(("s2",), window=2),
)
LONG = (
    Setting(("2s2",), evictions=1),
    Setting(("2Rs",), evictions=1, before=True),
    Setting(("sWs",), evictions=1),
    Setting(("Ws",), faults=2, evictions=1),
    Setting(("ss",), faults=2),
    Setting(("sFs", "s")),
    Setting(("ss", "s")),
    Setting(("2", "s"), before=True),
)
WALKS = (
    Setting(("2sR2WsCs",), faults=4, evictions=2, epochs=9),
    Setting(("2sR2s",), faults=4, evictions=2, epochs=9, before=True),
    Setting(("s2ss2",), faults=4, evictions=2, window=3, epochs=9),
    Setting(("2Rs", "s2"), faults=3, evictions=1, epochs=9),
    Setting(("2sFRs", "s2"), faults=3, evictions=1, epochs=9),
)
