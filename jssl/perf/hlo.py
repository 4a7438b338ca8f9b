"""Reads the text of a compiled HLO program: its collectives and its memory traffic.

XLA's own cost analysis counts the body of a loop once. Here a body counts as often as it runs: the
compiler states the number ("known_trip_count"), or the condition does (counter < constant, from
zero by ones, as in the scans of JAX). Other bodies count once.
"""

import itertools
import math
import re
from collections import defaultdict
from typing import NamedTuple, cast

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
AXIS = re.compile(r"'([^']+)'(?::\(\d+\)(\d+))?")  # 'x', or for a part of it 'x':(from)size
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
PARTS = {"dynamic-slice", "slice", "gather"}  # read no more bytes than their result has
Body = dict[str, "Op"]  # a computation


class Op(NamedTuple):
    """One operation of a computation."""

    name: str
    made: str  # the type of its result
    kind: str
    rest: str  # the operands and the rest of the line
    root: bool

    @property
    def operands(self) -> list[str]:
        """The names of the operands."""
        return re.findall(r"%([\w.\-]+)", self.within)

    @property
    def source(self) -> str:
        """The path of the JAX operation that it comes from; "" if XLA does not say it."""
        found = re.search(r'op_name="([^"]*)"', self.rest)
        return found[1] if found else ""

    @property
    def within(self) -> str:
        """The text in the parentheses: operands, or the number of a constant or parameter."""
        depth = itertools.accumulate({"(": 1, ")": -1}.get(c, 0) for c in self.rest)
        return self.rest[: next(i for i, level in enumerate(depth) if level < 0)]


class Moved(NamedTuple):
    """The memory traffic of one operation of a program."""

    op: Op
    bytes: int  # read and written, in all runs of one step


class Collective(NamedTuple):
    """One collective of a program."""

    kind: str
    bytes: int  # of all its operands or results, the larger of both, on one device
    group: int  # the number of devices that exchange data
    times: int  # the number of runs in one step
    overlaps: bool  # asynchronous; after a short search its start and end may be one operation


class Program:
    """The computations of an HLO module and the number of runs of each in a step.

    Args:
      text: of the HLO module.

    Attributes:
      bodies: {name of a computation: {name of an operation: Op}}.
      times: {name of a computation: number of runs}.
      flow: the computations that are not inside a fusion or a reduction.
    """

    def __init__(self, text: str) -> None:
        self.bodies: defaultdict[str, Body] = defaultdict(dict)
        name = ""
        entry = ""
        for line in text.splitlines():
            if head := HEAD.match(line):
                name = head[1]
                entry = name if line.startswith("ENTRY") else entry
            elif name and (match := OP.match(line)):
                last, op_name, made, kind, rest = match.groups()
                self.bodies[name][op_name] = Op(op_name, made, kind, rest, bool(last))
        self.times: defaultdict[str, int] = defaultdict(int)
        self.flow: set[str] = set()
        self._visit(entry, 1, True)

    def _visit(self, name: str, count: int, flow: bool) -> None:
        """Adds `count` runs of a computation and of those that it calls.

        `flow`: whether it is not inside a fusion or a reduction.
        """
        self.times[name] += count
        self.flow |= {name} if flow else set()
        for op in self.bodies.get(name, {}).values():
            inside = FLOW.findall(op.rest)
            if listed := BRANCHES.search(op.rest):
                inside += [callee.strip(" %") for callee in listed[1].split(",")]
            runs = count * (self._trips(op) if op.kind == "while" else 1)
            for callee in inside:
                self._visit(callee, runs, True)
            for callee in CALLED.findall(op.rest):
                self._visit(callee, runs, op.kind == "call")

    def _trips(self, op: Op) -> int:
        if trips := TRIPS.search(op.rest):
            return int(trips[1])
        condition = self.bodies[_group(r"condition=%?([\w.\-]+)", op.rest)]
        last = root(condition)
        if last.kind == "compare" and "direction=LT" in last.rest:
            limit = condition[last.operands[1]]
            if limit.kind == "constant":
                return int(limit.within)
        return 1

    def collectives(self, devices: int) -> list[Collective]:
        """Lists every collective of a program that runs on `devices` devices.

        Asynchronous forms count once, at their start.
        """
        collectives = []
        for name, body in self.bodies.items():
            for op in body.values():
                if (found := COLLECTIVE.fullmatch(op.kind)) and self.times[name]:
                    members = group(op.rest, devices)
                    moved = exchanged(found[1], bool(found[2]), op.made, members)
                    # On TPUs a reduce-scatter is a fusion of this name: a sum, and slices of it.
                    kind = "reduce-scatter" if name.startswith("all-reduce-scatter") else found[1]
                    overlaps = bool(found[2]) or "async_collective_name=" in op.rest
                    times = self.times[name]
                    collectives.append(Collective(kind, moved, members, times, overlaps))
        return collectives

    def traffic(self) -> int:
        """Counts the bytes that a step reads and writes.

        These are the operands and results of every operation; of a slice or an update in place only
        that part. Arrays in on-chip memory do not count.
        """
        return sum(moved.bytes for moved in self.moved())

    def moved(self) -> list[Moved]:
        """Lists the memory traffic of every operation of a step; see `traffic`."""
        return [
            Moved(op, self.times[name] * self._moved(op, self.bodies[name]))
            for name in self.flow
            for op in self.bodies.get(name, {}).values()
        ]

    def _moved(self, op: Op, body: Body) -> int:
        operands = [body[name] for name in op.operands if name in body]
        if op.kind in FREE or op.kind.endswith("-done") or '="AllocateBuffer"' in op.rest:
            return 0
        if op.kind == "copy-start":
            return bytes_held(op.made)
        if op.kind in PARTS:
            return 2 * bytes_held(op.made)
        if op.kind == "dynamic-update-slice":
            return 2 * bytes_held(operands[1].made)
        if op.kind != "fusion":
            return bytes_held(op.made) + sum(bytes_held(operand.made) for operand in operands)
        inner = self._called(op)
        read = sum(
            min(bytes_held(operand.made), self._read(i, inner))
            for i, operand in enumerate(operands)
        )
        return read + min(bytes_held(op.made), self._written(root(inner), inner))

    def _called(self, op: Op) -> Body:
        """Returns the computation inside a fusion."""
        return self.bodies[_group(CALLED, op.rest)]

    def _read(self, place: int, body: Body) -> int:
        """Counts the bytes that a fusion reads from its parameter number `place`."""

        def is_parameter(op: Op) -> bool:
            return op.kind == "parameter" and int(op.within) == place

        name = next(op.name for op in body.values() if is_parameter(op))
        return self._used(name, body)

    def _used(self, name: str, body: Body) -> int:
        """Counts the bytes of the array `name` that the operations of a fusion read."""
        whole = bytes_held(body[name].made, everywhere=True)
        total = 0
        for op in body.values():
            if name not in op.operands:
                continue
            place = op.operands.index(name)
            if op.kind == "bitcast":
                total += self._used(op.name, body)
            elif op.kind == "fusion":
                total += self._read(place, self._called(op))
            elif op.kind in PARTS and place == 0:
                total += bytes_held(op.made, everywhere=True)
            elif not (op.kind == "dynamic-update-slice" and place == 0):
                return whole
        return min(whole, total)

    def _written(self, op: Op, body: Body) -> int:
        """Counts the bytes that a fusion writes for its root."""
        if op.kind == "fusion":
            inner = self._called(op)
            return self._written(root(inner), inner)
        if op.kind in ("bitcast", "tuple"):
            return sum(self._written(body[name], body) for name in op.operands)
        made = body[op.operands[1]].made if op.kind == "dynamic-update-slice" else op.made
        return bytes_held(made, everywhere=True)


def _group(pattern: str | re.Pattern[str], text: str) -> str:
    """Returns the first group of a pattern that `text` must contain."""
    return cast(re.Match[str], re.search(pattern, text))[1]


def root(body: Body) -> Op:
    """Returns the operation whose result is that of the computation."""
    return next(op for op in body.values() if op.root)


def exchanged(kind: str, start: bool, made: str, members: int) -> int:
    """Counts the bytes of all arrays of a collective; XLA joins many small ones to a tuple.

    Args:
      kind: of the collective.
      start: whether it is the start of an asynchronous one, whose result mostly repeats the
        operands.
      made: the type of its result.
      members: the number of devices that exchange data.
    """
    total = bytes_held(made, everywhere=True)
    if kind == "collective-permute" and start:
        return total // 2
    if kind == "reduce-scatter" and not start:
        return total * members
    if kind in ("all-gather", "reduce-scatter") and start:
        return total * members // (members + 1)
    return total


def bytes_held(made: str, everywhere: bool = False) -> int:
    """Counts the bytes of all arrays of the type `made`; on-chip arrays only if `everywhere`."""
    arrays = ARRAY.findall(made)
    return sum(
        size(kind, dims) for kind, dims, layout in arrays if everywhere or "S(" not in layout
    )


def size(kind: str, dims: str) -> int:
    """Counts the bytes of an array, as in size("bf16", "128,1024")."""
    digits = re.search(r"\d+", kind)
    bits = int(digits[0]) if digits else {"pred": 8}.get(kind, 0)
    return math.ceil(math.prod(int(n) for n in dims.split(",") if n) * bits / 8)


def group(line: str, devices: int) -> int:
    """Returns the number of devices in each group of a collective, from its line of HLO."""
    if "replica_groups={}" in line:
        return devices
    if match := IOTA.search(line):
        return int(match[2])
    if match := LISTED.search(line):
        return len(match[1].split(","))
    if match := MESH.search(line):
        whole = dict(re.findall(r"'([^']+)'=(\d+)", match[1]))
        return math.prod(int(part or whole[axis]) for axis, part in AXIS.findall(match[2]))
    if "source_target_pairs=" in line:
        return 2
    raise ValueError(f"a collective without groups that are known here: {line.strip()[:300]}")
