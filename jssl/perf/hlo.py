"""What a compiled program moves, read from the text of its HLO: collectives, and bytes of memory.

XLA's own cost analysis counts the body of a loop once. Here a body counts as often as it runs: as
the compiler says ("known_trip_count"), or as its condition says (counter < constant, as JAX's scans
have it, from zero by ones); once where neither is so.
"""

import itertools
import math
import re
from collections import defaultdict
from typing import NamedTuple

COLLECTIVE = re.compile(
    r"(all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(-start)?"
)
HEAD = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
OP = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
ARRAY = re.compile(r"\b([a-z]+[0-9]*(?:e\d+m\d+\w*)?)\[([0-9,]*)\](\{[^}]*\})?")
FLOW = re.compile(r"(?:body|condition|true_computation|false_computation)=%?([\w.\-]+)")
BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
CALLED = re.compile(r"(?:calls|to_apply)=%?([\w.\-]+)")
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
IOTA = re.compile(r"replica_groups=\[(\d+),(\d+)\]")
LISTED = re.compile(r"replica_groups=\{\{([0-9,]*)\}")
MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=[^{]*)? ?\{([^}]*)\}")
AXIS = re.compile(r"'([^']+)'(?::\(\d+\)(\d+))?")  # 'x', or of a part of it 'x':(from)size
FREE = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "while",
    "conditional",
    "call",
    "after-all",
    "partition-id",
    "replica-id",
    "opt-barrier",
    "add-dependency",
    "iota",
}
PARTS = {"dynamic-slice", "slice", "gather"}  # read no more than they make


class Op(NamedTuple):
    name: str
    made: str  # its type
    kind: str
    rest: str  # operands and all that follows
    root: bool

    @property
    def operands(self) -> list[str]:
        return re.findall(r"%([\w.\-]+)", self.within)

    @property
    def within(self) -> str:
        """What stands between the parentheses: operands, or a constant's or parameter's number."""
        depth = itertools.accumulate({"(": 1, ")": -1}.get(c, 0) for c in self.rest)
        return self.rest[: next(i for i, level in enumerate(depth) if level < 0)]


class Collective(NamedTuple):
    kind: str
    bytes: int  # of all arrays that it makes or takes, whichever is more, on one device
    group: int  # devices that take part
    times: int  # how often a step runs it


class Program:
    """The computations of an HLO module, each {name: Op}, and how often a step runs them."""

    def __init__(self, text: str):
        self.bodies = defaultdict(dict)
        name = None
        entry = None
        for line in text.splitlines():
            if head := HEAD.match(line):
                name = head[1]
                entry = name if line.startswith("ENTRY") else entry
            elif name and (found := OP.match(line)):
                last, called, *parts = found.groups()
                self.bodies[name][called] = Op(called, *parts, bool(last))
        self.times = defaultdict(int)
        self.flow = set()
        self._visit(entry, 1, True)

    def _visit(self, name: str, count: int, flow: bool) -> None:
        """`flow`: a computation of its own, not the inside of a fusion or of a reduction."""
        self.times[name] += count
        self.flow |= {name} if flow else set()
        for op in self.bodies.get(name, {}).values():
            inside = FLOW.findall(op.rest)
            if listed := BRANCHES.search(op.rest):
                inside += [one.strip(" %") for one in listed[1].split(",")]
            often = count * (self._trips(op) if op.kind == "while" else 1)
            for one in inside:
                self._visit(one, often, True)
            for one in CALLED.findall(op.rest):
                self._visit(one, often, op.kind == "call")

    def _trips(self, op: Op) -> int:
        if said := TRIPS.search(op.rest):
            return int(said[1])
        condition = self.bodies[re.search(r"condition=%?([\w.\-]+)", op.rest)[1]]
        last = root(condition)
        if last.kind == "compare" and "direction=LT" in last.rest:
            limit = condition[last.operands[1]]
            if limit.kind == "constant":
                return int(limit.within)
        return 1

    def collectives(self, devices: int) -> list[Collective]:
        """Every collective, of a program that runs on so many devices. Asynchronous forms count
        once, at their start."""
        found = []
        for name, body in self.bodies.items():
            for op in body.values():
                if (kind := COLLECTIVE.fullmatch(op.kind)) and self.times[name]:
                    members = group(op.rest, devices)
                    moved = exchanged(kind[1], bool(kind[2]), op.made, members)
                    found.append(Collective(kind[1], moved, members, self.times[name]))
        return found

    def traffic(self) -> int:
        """Bytes that a step reads and writes: of every operation its operands and results, of a
        slice or an update in place only that part; nothing of what lies in on-chip memory."""
        return sum(
            self.times[name] * self._moved(op, self.bodies[name])
            for name in self.flow
            for op in self.bodies.get(name, {}).values()
        )

    def _moved(self, op: Op, body: dict) -> int:
        given = [body[name] for name in op.operands if name in body]
        if op.kind in FREE or op.kind.endswith("-done"):
            return 0
        if op.kind == "copy-start":
            return bytes_held(op.made)
        if op.kind in PARTS:
            return 2 * bytes_held(op.made)
        if op.kind == "dynamic-update-slice":
            return 2 * bytes_held(given[1].made)
        if op.kind != "fusion":
            return bytes_held(op.made) + sum(bytes_held(one.made) for one in given)
        inner = self.bodies[CALLED.search(op.rest)[1]]
        read = sum(min(bytes_held(one.made), self._read(i, inner)) for i, one in enumerate(given))
        return read + min(bytes_held(op.made), self._written(root(inner), inner))

    def _read(self, place: int, body: dict) -> int:
        """Bytes that a fusion reads of its parameter of that place."""

        def is_it(op):
            return op.kind == "parameter" and int(op.within) == place

        name = next(op.name for op in body.values() if is_it(op))
        return self._used(name, body)

    def _used(self, name: str, body: dict) -> int:
        """Bytes that the operations of a fusion take of what has that name there."""
        whole = bytes_held(body[name].made, everywhere=True)
        total = 0
        for op in body.values():
            if name not in op.operands:
                continue
            place = op.operands.index(name)
            if op.kind == "bitcast":
                total += self._used(op.name, body)
            elif op.kind == "fusion":
                total += self._read(place, self.bodies[CALLED.search(op.rest)[1]])
            elif op.kind in PARTS and place == 0:
                total += bytes_held(op.made, everywhere=True)
            elif not (op.kind == "dynamic-update-slice" and place == 0):
                return whole
        return min(whole, total)

    def _written(self, op: Op, body: dict) -> int:
        """Bytes that a fusion writes for its root."""
        if op.kind == "fusion":
            inner = self.bodies[CALLED.search(op.rest)[1]]
            return self._written(root(inner), inner)
        if op.kind in ("bitcast", "tuple"):
            return sum(self._written(body[name], body) for name in op.operands)
        made = body[op.operands[1]].made if op.kind == "dynamic-update-slice" else op.made
        return bytes_held(made, everywhere=True)


def root(body: dict) -> Op:
    return next(op for op in body.values() if op.root)


def exchanged(kind: str, start: bool, made: str, members: int) -> int:
    """Bytes of all arrays of a collective whose result has the type `made`: XLA joins many small
    ones into one with a tuple. Where it is asynchronous, most results repeat the operands."""
    total = bytes_held(made, everywhere=True)
    if kind == "collective-permute" and start:
        return total // 2
    if kind == "reduce-scatter" and not start:
        return total * members
    if kind in ("all-gather", "reduce-scatter") and start:
        return total * members // (members + 1)
    return total


def bytes_held(made: str, everywhere: bool = False) -> int:
    """Bytes of all arrays of the type `made`, without those in a memory space of their own."""
    found = ARRAY.findall(made)
    return sum(size(kind, dims) for kind, dims, lay in found if everywhere or "S(" not in lay)


def size(kind: str, dims: str) -> int:
    """Bytes of an array "bf16", "128,1024"."""
    digits = re.search(r"\d+", kind)
    bits = int(digits[0]) if digits else {"pred": 8}.get(kind, 0)
    return math.ceil(math.prod(int(n) for n in dims.split(",") if n) * bits / 8)


def group(line: str, devices: int) -> int:
    """Of how many devices each group is that exchanges something."""
    if "replica_groups={}" in line:
        return devices
    if found := IOTA.search(line):
        return int(found[2])
    if found := LISTED.search(line):
        return len(found[1].split(","))
    if found := MESH.search(line):
        whole = dict(re.findall(r"'([^']+)'=(\d+)", found[1]))
        return math.prod(int(part or whole[axis]) for axis, part in AXIS.findall(found[2]))
    if "source_target_pairs=" in line:
        return 2
    raise ValueError(f"a collective without groups that are known here: {line.strip()[:300]}")
