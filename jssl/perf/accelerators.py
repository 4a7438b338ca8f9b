"""Peak rates and memory of one JAX device, by `jax.Device.device_kind`.

NVIDIA's data sheets often print the FLOP/s with 2:4 sparsity, which is twice the dense rate.
"""

from typing import NamedTuple


class Chip(NamedTuple):
    """Peak rates of one device.

    Attributes:
      flops: dense bfloat16 FLOP/s with float32 accumulation.
      memory: bytes.
      bandwidth: of the memory, bytes/s.
      link: to other chips of the host or slice, bytes/s in one direction, all ports together.
    """

    flops: float
    memory: float
    bandwidth: float
    link: float


GB = 2.0**30  # memory is sold in these
CHIPS = {
    # DGX B200 data sheet: 72 PFLOP/s FP8 sparse, 1,440 GB, 64 TB/s, 14.4 TB/s NVLink for 8.
    "NVIDIA B200": Chip(2250e12, 180 * GB, 8000e9, 900e9),
    # H200 data sheet: 1,979 sparse, 141 GB, 4.8 TB/s, NVLink 900 GB/s both ways.
    "NVIDIA H200": Chip(989e12, 141e9, 4800e9, 450e9),
    # H100 data sheet, SXM and PCIe: 1,979 and 1,513 sparse; 3.35 and 2 TB/s; 900 and 600 GB/s.
    "NVIDIA H100 80GB HBM3": Chip(989e12, 80 * GB, 3350e9, 450e9),
    "NVIDIA H100 PCIe": Chip(756e12, 80 * GB, 2000e9, 300e9),
    # A100 data sheet: 312; 2,039, 1,555 and 1,935 GB/s; NVLink 600 GB/s both ways.
    "NVIDIA A100-SXM4-80GB": Chip(312e12, 80 * GB, 2039e9, 300e9),
    "NVIDIA A100-SXM4-40GB": Chip(312e12, 40 * GB, 1555e9, 300e9),
    "NVIDIA A100 80GB PCIe": Chip(312e12, 80 * GB, 1935e9, 300e9),
    # L4 data sheet: 242 sparse, 300 GB/s, PCIe Gen4 x16 64 GB/s both ways.
    "NVIDIA L4": Chip(121e12, 24 * GB, 300e9, 32e9),
    # Ada GPU architecture white paper, appendix A: 165.2, 1,008 GB/s; PCIe Gen4 x16.
    "NVIDIA GeForce RTX 4090": Chip(165e12, 24 * GB, 1008e9, 32e9),
    # V100 data sheet: 125 in float16 (it has no bfloat16), 900 GB/s, NVLink 300 GB/s both ways.
    "Tesla V100-SXM2-16GB": Chip(125e12, 16 * GB, 900e9, 150e9),
    "Tesla V100-SXM2-32GB": Chip(125e12, 32 * GB, 900e9, 150e9),
    # docs.cloud.google.com/tpu/docs: v4, v5e, v5p-training, v6e. Links: half of "bidirectional
    # ICI bandwidth per chip"; v5e's all-reduce bandwidth per pod, 51.2 TB/s of 256, says the same.
    "TPU v4": Chip(275e12, 32 * GB, 1200e9, 150e9),
    "TPU v5 lite": Chip(197e12, 16 * GB, 819e9, 200e9),
    "TPU v5e": Chip(197e12, 16 * GB, 819e9, 200e9),
    "TPU v5": Chip(459e12, 95 * GB, 2765e9, 600e9),
    "TPU v5p": Chip(459e12, 95 * GB, 2765e9, 600e9),
    "TPU v6 lite": Chip(918e12, 32 * GB, 1600e9, 400e9),
    "TPU v6e": Chip(918e12, 32 * GB, 1600e9, 400e9),
}
