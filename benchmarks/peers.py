"""The same work in PyTorch, which a user would pick instead: training steps, as JSON.

    python benchmarks/peers.py --out=peers.json                 # a GPU: bf16, torch.compile
    python benchmarks/peers.py --cpu --only simclr_r18 bert     # small sizes, float32, on a CPU
    python benchmarks/peers.py --row gpt2_32x1024_tokens --steps 20

Needs torch, torchvision, timm and transformers, and kornia for the views on a GPU; nothing of jssl.
A row is a whole step: views (where its name says so), forward, backward, update. Its time is the
median of three blocks of steps. --row prints one JSON line.
"""

import argparse
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import torch
from peer_mae import mae
from peer_steps import Setting, Step, bert, byol, gpt, simclr

VIT_B = (768, 12, 12, 512, 8, 16)
VIT_L = (1024, 24, 16, 512, 8, 16)
SMALL = dict(
    vocab_size=8192,
    hidden_size=512,
    num_hidden_layers=4,
    num_attention_heads=8,
    intermediate_size=2048,
)
Rows = dict[str, Callable[[Setting], Step]]
GPU_ROWS: Rows = {
    "simclr_r18_32px_b512_views_made": lambda how: simclr(how, "resnet18", 32, 512, True),
    "simclr_r50_224px_b256_views_made": lambda how: simclr(how, "resnet50", 224, 256, False),
    "mae_vitb_b1024": lambda how: mae(how, 1024, *VIT_B),
    "mae_vitl_b512": lambda how: mae(how, 512, *VIT_L),
    "bert_base_64x512_tokens": lambda how: bert(how, 64, 512, vocab_size=30528),
    "gpt2_32x1024_tokens": lambda how: gpt(how, 32, 1024, vocab_size=50304),
    "byol_r50_224px_b256_views_made": lambda how: byol(how, 256),
}
CPU_ROWS: Rows = {
    "simclr_r18_32px_b64_views_made": lambda how: simclr(how, "resnet18", 32, 64, True),
    "simclr_r50_224px_b8_views_made": lambda how: simclr(how, "resnet50", 224, 8, False),
    "mae_vits_b16": lambda how: mae(how, 16, 384, 12, 6, 256, 4, 8),
    "bert_small_16x128_tokens": lambda how: bert(
        how, 16, 128, max_position_embeddings=128, **SMALL
    ),
    "gpt_small_8x256_tokens": lambda how: gpt(
        how, 8, 256, vocab_size=8192, n_embd=384, n_layer=6, n_head=6
    ),
}


def timed(step: Callable[[], Any], steps: int, cpu: bool) -> tuple[float, float]:
    """Returns (ms of a step: the median of three blocks, seconds of the steps before)."""

    def wait() -> None:
        if not cpu:
            torch.cuda.synchronize()

    began = time.perf_counter()
    for _ in range(2 if cpu else 6):
        step()
    wait()
    warm = time.perf_counter() - began
    blocks = []
    for _ in range(3):
        began = time.perf_counter()
        for _ in range(steps):
            step()
        wait()
        blocks.append((time.perf_counter() - began) / steps * 1e3)
    return sorted(blocks)[1], warm


def ceilings() -> dict[str, float]:
    """Measures the GPU's matrix product in bfloat16, and a copy in bytes read and written."""
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    source = torch.randn(2**30, device="cuda")
    copy = torch.empty_like(source)
    product_ms, _ = timed(lambda: a @ a, 30, False)
    copy_ms, _ = timed(lambda: copy.copy_(source), 10, False)
    return {
        "tflops_bf16": round(2 * 8192**3 / product_ms / 1e9, 1),
        "copy_gb_s": round(8 * 2**30 / copy_ms / 1e6, 1),
    }


def measure(make: Callable[[Setting], Step], how: Setting, steps: int) -> dict[str, float]:
    """Times one row."""
    step, items = make(how)
    ms, warm = timed(step, steps, how.cpu)
    return {
        "ms": round(ms, 2),
        "items_per_s": round(items / ms * 1e3, 1),
        "warm_s": round(warm, 1),
    }


def all_rows(rows: Rows, how: Setting, about: dict[str, str], args: argparse.Namespace) -> None:
    """Times each row that --only names and writes --out after each."""
    found: dict[str, Any] = {**about, "rows": {}}
    if not how.cpu:
        found["ceilings"] = ceilings()
        print(json.dumps(found["ceilings"]), flush=True)
    for name, make in rows.items():
        if args.only and not any(part in name for part in args.only):
            continue
        try:
            row = measure(make, how, args.steps)
        except Exception as error:  # one row that fails must not lose the others
            row = {"error": repr(error)[:200]}
        found["rows"][name] = row
        print(json.dumps({name: row}), flush=True)
        if args.out:
            pathlib.Path(args.out).write_text(json.dumps(found, indent=1) + "\n")
        if not how.cpu:
            torch._dynamo.reset()
            torch.cuda.empty_cache()


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cpu", action="store_true", help="the small rows, on the CPU")
    parser.add_argument("--eager", action="store_true", help="no torch.compile")
    parser.add_argument(
        "--only", nargs="*", default=[], help="rows whose name has one of these in it"
    )
    parser.add_argument("--out", default="", help="the JSON file")
    parser.add_argument("--row", default="", help="one row; its JSON is the last line")
    parser.add_argument("--list", action="store_true", help="the names of the rows, as JSON")
    parser.add_argument("--steps", type=int, default=0, help="of a block; default: 20, on a CPU 3")
    args = parser.parse_args()
    how = Setting(args.cpu, args.eager or args.cpu)
    args.steps = args.steps or (3 if how.cpu else 20)
    rows = CPU_ROWS if how.cpu else GPU_ROWS
    if args.list:
        print(json.dumps(list(rows)))
        return
    if args.row not in ("", *rows):
        parser.error(f"--row={args.row}: not one of {', '.join(rows)}")
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    device = "cpu" if how.cpu else torch.cuda.get_device_name(0)
    about = {"torch": torch.__version__, "device": device}
    if not args.row:
        all_rows(rows, how, about, args)
        return
    print(json.dumps({"row": args.row, **measure(rows[args.row], how, args.steps), **about}))


if __name__ == "__main__":
    main()
