"""GPUs that are not here, from their data sheets: `jssl plan --topology=h100:16`.

No compiler runs: what a step reads and writes of its activations is not known. The time is that of
computing, of the state and of the gradients, at peak rates.
"""

import math
import re
from typing import Any, NamedTuple

from jssl.config import ConfigError
from jssl.perf import accelerators
from jssl.perf.accelerators import CHIPS


class Host(NamedTuple):
    """The GPUs of one host, and the network between hosts.

    Attributes:
      kind: a key of `CHIPS`.
      gpus: of one host.
      network: bytes/s of one GPU to other hosts, in one direction; 0: the data sheet has none.
    """

    kind: str
    gpus: int = 8
    network: float = 0.0


HOSTS = {
    # DGX B200, H200 and H100 user guides: eight 400 Gb/s adapters; DGX A100: eight of 200 Gb/s.
    "b200": Host("NVIDIA B200", network=50e9),
    "h200": Host("NVIDIA H200", network=50e9),
    "h100": Host("NVIDIA H100 80GB HBM3", network=50e9),
    "a100": Host("NVIDIA A100-SXM4-80GB", network=25e9),
    "a100-40": Host("NVIDIA A100-SXM4-40GB", network=25e9),
    "h100-pcie": Host("NVIDIA H100 PCIe"),
    "a100-pcie": Host("NVIDIA A100 80GB PCIe"),
    "l4": Host("NVIDIA L4"),
    "rtx4090": Host("NVIDIA GeForce RTX 4090"),
    "v100": Host("Tesla V100-SXM2-16GB"),
    "v100-32": Host("Tesla V100-SXM2-32GB"),
}


def parse(topology: str) -> tuple[Host, int] | None:
    """Parses "h100:16", 16 GPUs; None for the name of another kind.

    Raises:
      UserError: a number that such hosts do not make.
    """
    found = re.fullmatch(r"([\w-]+):(\d+)", topology)
    if not found or found[1] not in HOSTS:
        return None
    host = HOSTS[found[1]]
    count = int(found[2])
    one_host = 0 < count <= host.gpus
    if not (one_host or (host.network and count % host.gpus == 0 and count)):
        most = f"1 to {host.gpus}" + f", or a multiple of {host.gpus}" * bool(host.network)
        raise ConfigError("topology", topology, f"{found[1]} takes {most}", f"try {found[1]}:8")
    return host, count


def roofline(
    host: Host, axes: dict[str, int], flops: int, state_bytes: int, gradient_bytes: int
) -> dict[str, Any]:
    """Returns the seconds of a step at peak rates, without its activations.

    Args:
      host: the GPUs.
      axes: the mesh.
      flops: of a step on one GPU.
      state_bytes: of the state on one GPU. The step reads and writes them.
      gradient_bytes: of the gradients. Their sum over all GPUs sends twice as many, as a
        reduce-scatter and an all-gather of a split state together.

    Returns:
      "seconds", "step_seconds", "memory".
    """
    chip: accelerators.Chip = CHIPS[host.kind]
    count = math.prod(axes.values())
    link = host.network if count > host.gpus else chip.link
    seconds = {
        "compute": flops / chip.flops,
        "memory": 2 * state_bytes / chip.bandwidth,
        "interconnect": 2 * gradient_bytes * (count - 1) / count / link,
    }
    return {
        "seconds": seconds,
        "step_seconds": max(seconds.values()),
        "memory": chip.memory,
    }
