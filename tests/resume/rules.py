"""The rules of docs/sessions.md, by name, each of which can be switched off."""

from dataclasses import dataclass, field

# Distance between sequences of before and after a session is taken up; 2**40 in earnest.
TERM = 16


class Violation(Exception):
    """Something happened that the protocol promises never happens."""


@dataclass(frozen=True)
class Setting:
    """What is explored.

    Attributes:
        scripts: of each client; the second one comes to the first one's session, or to the fork that it made.
        faults: at most.
        evictions: slots given up, at most.
        window: entries that a client sends without having been answered.
        before: answers leave when they are stored.
        off: rules that do not hold.
        epochs: no session is opened more often.
    """

    scripts: tuple[str, ...]
    faults: int = 1
    evictions: int = 0
    window: int = 1
    before: bool = False
    off: frozenset[str] = field(default=frozenset())
    epochs: int = 5

    def __str__(self) -> str:
        extra = f", {self.evictions} given up" if self.evictions else ""
        extra += f", {self.window} ahead" if self.window > 1 else ""
        extra += ", before the answer" if self.before else ""
        return f"{' and '.join(self.scripts)}, {self.faults} faults{extra}"

    def holds(self, rule: str) -> bool:
        """Whether a rule holds; `RULES` has all."""
        return rule not in self.off


# What each says, and by which number docs/sessions.md has it.
RULES = {
    "first": "1  Steps are taken at the position only that they are meant for",
    "sequence": "1  Reset and Close are carried out at the sequence only that they are meant for",
    "epoch": "3  an Open is refused whose epoch is not higher than the session's",
    "proposes": "2  a client with a log proposes an epoch at each attempt",
    "exactly": "5  a slot is kept only if the session stands where the client lacks an answer",
    "own epoch": "5  a slot is kept only if the store's epoch was its owner's own",
    "newest": "6  a session is taken up at what is newest, in a slot or in the store",
    "taken up": "6  a session that is taken up has one checkpoint, where it stands, before Opened is sent",
    "term": "6  its sequence moves on then to where no log of before ends",
    "opened": "7  a client with a log sends nothing before it has heard Opened",
    "handle": "8  a handle is of no use but on the stream whose Open was the latest",
    "one stream": "8  a client reads its latest stream alone",
    "acknowledged": "9  that an answer was sent acknowledges nothing",
    "acknowledges": "9  a client that sends ahead says what it lacks",
    "alone": "9  nothing is sent together with a Reset",
    "equal epoch": "10 the store takes writes of its epoch alone",
    "one write": "10 one write of a session is under way at a time, a SetState's included",
    "report": "10 the report of a write counts for the epoch of the write",
    "unknown": "10 the store is asked for a SetState until it answers; what it may have closed is dropped",
    "anchor": "11 the newest checkpoint at or before what is acknowledged stays",
    "durable": "11 a client may forget what lies below the anchor, not below the tip",
    "tombstone": "12 a session that was closed leaves its epoch, and no write brings it back",
    "quiet close": "12 Close is sent when everything is answered",
    "exact slot": "13 a slot is given up only where exactly its state is stored",
    "set stored": "-  the state of a SetState is the only checkpoint before it is answered",
    "quiet set": "-  SetState is sent when everything is answered",
    "set sequence": "-  SetState is carried out at the sequence only that it is meant for",
    "set epoch": "-  and of no earlier Open than the latest",
    "supposes": "-  a client that has not heard the answer to SetState resumes as if it had",
    "fork stored": "-  a fork is stored before it is answered",
    "handover": "-  a living owner hands over, and is not fenced",
    "hands over stored": "-  it hands over what is stored",
    "releases": "-  an owner releases what is wanted of it and what it does not have",
}
