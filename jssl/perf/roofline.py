"""The time of a step at a chip's peak rates, from the bytes and operations of its program."""

import re
from collections import defaultdict
from typing import Any

from jssl.perf import accelerators, hlo

SCALES = (8, 32, 128, 256)  # numbers of chips
# The part of a step that moves bytes, by the path of the JAX operation; first match wins.
PARTS = (
    ("views", r"\baugment\b"),
    ("attention weights", r"/attn/(?!qkv|proj)"),
    ("convolutions", r"conv_general_dilated|select_and_scatter|reduce_window"),
    ("products", r"dot_general|/(qkv|proj|fc\d|dense\d|patch_embed)/"),
    ("norms and sums", r"/(bn|norm)\w*/|reduce_sum;|layer\d_\d/add"),
    ("networks, the rest", r"jvp\("),
    ("update", r""),
)


def summarize(moved: list[hlo.Collective]) -> list[dict[str, Any]]:
    """Sums the collectives of each kind, group size and `overlaps`: their number and bytes."""
    sums: defaultdict[tuple[str, int, bool], list[int]] = defaultdict(lambda: [0, 0])
    for one in moved:
        total = sums[one.kind, one.group, one.overlaps]
        total[0] += one.times
        total[1] += one.times * one.bytes
    return [
        {"kind": kind, "group": group, "overlaps": overlaps, "times": times, "bytes": size}
        for (kind, group, overlaps), (times, size) in sorted(sums.items())
    ]


def roofline(
    found: dict[str, Any], chip: accelerators.Chip, devices: int, rings: int = 1
) -> dict[str, Any]:
    """Returns the seconds of a step at peak rates, and the efficiency at other numbers of chips.

    A step takes the largest of three times: computing, memory, and the collectives that run
    meanwhile. The collectives for which everything waits come on top.

    Args:
      found: has "flops_per_device", "traffic" and "collectives".
      chip: the peak rates.
      devices: the number of chips of `found`.
      rings: the axes of the torus of chips. A group of all chips sends along all of them, a smaller
        group along one.

    Returns:
      "seconds": of each; "exposed" is the part of "interconnect" for which everything waits.
      "step_seconds". "efficiency": {number of chips: time without collectives / time}, for the same
      batch on each chip.
    """
    compute = found["flops_per_device"] / chip.flops
    traffic = (found["traffic"] or 0.0) / chip.bandwidth
    work = max(compute, traffic)

    def link(n: int, overlaps: bool) -> float:
        moved = (one for one in found["collectives"] if one["overlaps"] == overlaps)
        return (
            sum(
                bytes_sent(one, n, devices) * (1 if one["group"] in (n, devices) else rings)
                for one in moved
            )
            / chip.link
        )

    def step(n: int) -> float:
        return max(work, link(n, True)) + link(n, False)

    seconds = {
        "compute": compute,
        "memory": traffic,
        "interconnect": link(devices, True) + link(devices, False),
        "exposed": link(devices, False),
    }
    return {
        "seconds": seconds,
        "step_seconds": step(devices),
        "efficiency": {str(n): work / step(n) for n in SCALES if work},
    }


def rings(topology: str) -> int:
    """Counts the axes of the torus of a topology: 2 for "v5e:16x16"; 1 for local devices."""
    sides = topology.partition(":")[2].split("x")
    return max(sum(side.isdigit() and int(side) > 1 for side in sides), 1)


def bytes_sent(one: dict[str, Any], n: int, devices: int) -> float:
    """Counts the bytes that a device sends for a collective on rings of n chips.

    The batch of a chip stays the same: a group of all devices becomes one of n, and an all-gather
    from all devices grows with n.
    """
    kind = one["kind"]
    size = one["bytes"]
    whole = one["group"] == devices
    group = n if whole else min(one["group"], n)
    size *= n / devices if whole and kind == "all-gather" else 1
    return (
        size * {"all-reduce": 2, "collective-permute": 1}.get(kind, 1) * (group - 1) / max(group, 1)
    )


def traffic_of(program: hlo.Program, rows: int = 20) -> dict[str, Any]:
    """Says which parts of a step, and which operations, read and write the most bytes.

    Operations of one path, but for numbers in it, share a row.

    Returns:
      {"parts": {part: bytes}, "largest": [{"source", "kind", "times", "bytes", "array": the type of
      the largest result}]}, each in falling order.
    """
    parts: defaultdict[str, int] = defaultdict(int)
    groups: defaultdict[tuple[str, str], list[hlo.Moved]] = defaultdict(list)
    for moved in program.moved():
        if moved.bytes:
            parts[part_of(moved.op)] += moved.bytes
            groups[path_of(moved.op), moved.op.kind].append(moved)
    by_bytes = sorted(groups.items(), key=lambda item: -sum(one.bytes for one in item[1]))
    return {
        "parts": dict(sorted(parts.items(), key=lambda item: -item[1])),
        "largest": [
            {
                "source": source,
                "kind": kind,
                "times": len(found),
                "bytes": sum(one.bytes for one in found),
                "array": array_of(max(found, key=lambda one: one.bytes).op),
            }
            for (source, kind), found in by_bytes[:rows]
        ],
    }


def part_of(op: hlo.Op) -> str:
    """Names the part of a step that an operation belongs to; see `PARTS`."""
    if hlo.COLLECTIVE.match(op.kind) or "calls=%all-reduce-scatter" in op.rest:
        return "collectives"
    return next(name for name, pattern in PARTS if re.search(pattern, op.source))


def path_of(op: hlo.Op) -> str:
    """Shortens jit(step)/transpose(jvp(ViT))/blocks/3/mlp to "backward: ViT/blocks/*/mlp"."""
    path = re.sub(r"^jit\(\w+\)/", "", op.source)
    path = re.sub(r"transpose\(jvp\((\w*)\)\)/", r"backward: \1/", path)
    path = re.sub(r"jvp\((\w*)\)/", r"forward: \1/", path)
    return re.sub(r"\d+", "*", path)


def array_of(op: hlo.Op) -> str:
    """Names the largest array that an operation makes, as in "bf16[32,56,56,256]"."""
    arrays = hlo.ARRAY.findall(op.made)
    kind, dims, _ = max(arrays, key=lambda array: hlo.size(array[0], array[1]))
    return f"{kind}[{dims}]"
