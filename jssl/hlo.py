"""The collectives of a compiled program, read from the text of its HLO.

A body of a loop counts as often as the compiler says that it runs ("known_trip_count"; once where
it does not say). Asynchronous forms count once, at their start.
"""

import math
import re
from collections import defaultdict
from typing import NamedTuple

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
HEAD = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
OP = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\(")
ARRAY = re.compile(r"\b([a-z]+[0-9]*(?:e\d+m\d+\w*)?)\[([0-9,]*)\]")
CALLED = re.compile(
    r"(?:body|condition|calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)"
)
BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
IOTA = re.compile(r"replica_groups=\[(\d+),(\d+)\]")
LISTED = re.compile(r"replica_groups=\{\{([0-9,]*)\}")
MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}")
AXIS = re.compile(r"'([^']+)'(?::\(\d+\)(\d+))?")  # 'x', or of a part of it 'x':(from)size


class Collective(NamedTuple):
    kind: str
    bytes: int  # of all arrays that it makes or takes, whichever is more, on one device
    group: int  # devices that take part
    times: int  # how often a step runs it


def collectives(text: str, devices: int) -> list[Collective]:
    """Every collective of the program `text`, which runs on so many devices."""
    bodies, entry, name = defaultdict(list), None, None
    for line in text.splitlines():
        if head := HEAD.match(line):
            name = head[1]
            entry = name if line.startswith("ENTRY") else entry
        elif name:
            bodies[name].append(line)
    found, times = [], runs(bodies, entry)
    for name, lines in bodies.items():
        for line in lines:
            if (op := OP.search(line)) and times[name]:
                members = group(line, devices)
                moved = exchanged(op[2], bool(op[3]), op[1], members)
                found.append(Collective(op[2], moved, members, times[name]))
    return found


def exchanged(kind: str, start: bool, made: str, members: int) -> int:
    """Bytes of all arrays of a collective whose result has the type `made`: XLA joins many small
    ones into one with a tuple. Where it is asynchronous, most results repeat the operands."""
    total = sum(size(*array) for array in ARRAY.findall(made))
    if kind == "collective-permute" and start:
        return total // 2
    if kind == "reduce-scatter" and not start:
        return total * members
    if kind in ("all-gather", "reduce-scatter") and start:
        return total * members // (members + 1)
    return total


def runs(bodies, entry) -> dict[str, int]:
    """How often each computation runs in one call of the program."""
    times = defaultdict(int)

    def visit(name, count):
        times[name] += count
        for line in bodies.get(name, ()):
            called = CALLED.findall(line)
            if listed := BRANCHES.search(line):
                called += [one.strip(" %") for one in listed[1].split(",")]
            trips = TRIPS.search(line)
            for one in called:
                visit(one, count * (int(trips[1]) if trips else 1))

    visit(entry, 1)
    return times


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
