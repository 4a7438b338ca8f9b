"""Training steps in PyTorch for `peers.py`: views, networks, losses, updates.

A function of a step returns (step, items): `step()` runs one whole step, and `items` is the number
of examples or tokens in it.
"""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Step = tuple[Callable[[], None], int]


def allow_torchvision() -> torch.library.Library:
    """Declares torchvision's C++ operators, so that its import does not fail.

    PyPI's torchvision is a CUDA build. Beside a CPU build of torch its operators are missing. The
    library that is returned has to stay alive.
    """
    operators = torch.library.Library("torchvision", "DEF")
    for schema in (
        "nms(Tensor d, Tensor s, float i) -> Tensor",
        "qnms(Tensor d, Tensor s, float i) -> Tensor",
    ):
        operators.define(schema)
    return operators


try:
    import torchvision
except RuntimeError:
    OPERATORS = allow_torchvision()
    import torchvision


class Setting(NamedTuple):
    """How the steps run.

    Attributes:
      cpu: float32 on the CPU; otherwise bfloat16 on the first GPU.
      eager: without `torch.compile`.
    """

    cpu: bool
    eager: bool

    @property
    def device(self) -> str:
        """The name of the device."""
        return "cpu" if self.cpu else "cuda"

    def compiled(self, net: nn.Module) -> Callable[..., Tensor]:
        """Returns the network, compiled unless `eager`."""
        return net if self.eager else torch.compile(net)

    def half(self) -> AbstractContextManager:
        """Returns the context in which a GPU computes in bfloat16."""
        return torch.autocast("cuda", torch.bfloat16, enabled=not self.cpu)


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Module:
    """Returns a head of two layers with BatchNorm between them."""
    return nn.Sequential(
        nn.Linear(inputs, hidden, bias=False),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Linear(hidden, outputs),
    )


def resnet(name: str, cifar: bool) -> tuple[nn.Module, int]:
    """Returns torchvision's ResNet without its classifier, and the width of its features."""
    net = getattr(torchvision.models, name)()
    width = net.fc.in_features
    net.fc = nn.Identity()
    if cifar:
        net.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        net.maxpool = nn.Identity()
    return net, width


def nt_xent(a: Tensor, b: Tensor, temperature: float = 0.5) -> Tensor:
    """Returns SimCLR's loss of two views [B, dim]."""
    z = F.normalize(torch.cat([a, b]).float(), dim=1)
    logits = z @ z.T / temperature
    logits.fill_diagonal_(float("-inf"))
    n = len(a)
    return F.cross_entropy(logits, torch.arange(2 * n, device=z.device).roll(n))


def gpu_views(px: int, source: int, n: int, blur: bool) -> Callable[[], Tensor]:
    """Makes two views of `n` uint8 images of source x source, by kornia on the device."""
    import kornia.augmentation as K

    kernel = max(3, int(0.1 * px) // 2 * 2 + 1)
    operations = [
        K.RandomResizedCrop((px, px), scale=(0.08, 1.0)),
        K.RandomHorizontalFlip(),
        K.ColorJitter(0.8, 0.8, 0.8, 0.2, p=0.8),
        K.RandomGrayscale(p=0.2),
    ]
    if blur:
        operations.append(K.RandomGaussianBlur((kernel, kernel), (0.1, 2.0), p=0.5))
    view = nn.Sequential(*operations)
    images = torch.randint(0, 256, (n, 3, source, source), device="cuda", dtype=torch.uint8)

    def make() -> Tensor:
        with torch.no_grad():
            x = images.float() / 255
            return torch.cat([view(x), view(x)])

    return make


def cpu_views(px: int, source: int, n: int, blur: bool) -> Callable[[], Tensor]:
    """Makes two views as a DataLoader's worker does: torchvision v2, one image at a time."""
    from torchvision.transforms import v2 as T

    operations = [
        T.RandomResizedCrop(px, scale=(0.08, 1.0), antialias=True),
        T.RandomHorizontalFlip(),
        T.RandomApply([T.ColorJitter(0.8, 0.8, 0.8, 0.2)], 0.8),
        T.RandomGrayscale(0.2),
    ]
    if blur:
        operations.append(T.RandomApply([T.GaussianBlur(23, (0.1, 2.0))], 0.5))
    operations.append(T.ToDtype(torch.float32, scale=True))
    operations.append(T.Normalize((0.5,) * 3, (0.25,) * 3))
    view = T.Compose(operations)
    images = torch.randint(0, 256, (n, 3, source, source), dtype=torch.uint8)
    return lambda: torch.stack([view(image) for _ in range(2) for image in images])


def simclr(how: Setting, name: str, px: int, n: int, cifar: bool) -> Step:
    """SimCLR with SGD, views included."""
    net, width = resnet(name, cifar)
    net = nn.Sequential(net, mlp(width, 512 if cifar else 2048, 128)).to(how.device)
    net = net.to(memory_format=torch.channels_last)
    tx = torch.optim.SGD(net.parameters(), 0.03, momentum=0.9, weight_decay=5e-4, foreach=True)
    run = how.compiled(net)
    make = cpu_views if how.cpu else gpu_views
    views = make(px, 32 if cifar else 256, n, not cifar)

    def step() -> None:
        x = views().contiguous(memory_format=torch.channels_last)
        with how.half():
            z = run(x)
        update(nt_xent(z[:n], z[n:]), tx)

    return step, n


def byol(how: Setting, n: int) -> Step:
    """BYOL of a ResNet-50 at 224 px on a GPU, views and teacher included."""
    net, width = resnet("resnet50", False)
    net = nn.Sequential(net, mlp(width, 4096, 256)).to(how.device)
    net = net.to(memory_format=torch.channels_last)
    teacher = copy.deepcopy(net).requires_grad_(False)
    head = mlp(256, 4096, 256).to(how.device)
    parameters = [*net.parameters(), *head.parameters()]
    tx = torch.optim.SGD(parameters, 0.3, momentum=0.9, foreach=True)
    online = how.compiled(nn.Sequential(net, head))
    target = how.compiled(teacher)
    views = gpu_views(224, 256, n, True)

    def step() -> None:
        x = views().contiguous(memory_format=torch.channels_last)
        with how.half():
            p = online(x)
            with torch.no_grad():
                z = target(x)
        p = F.normalize(p.float(), dim=1)
        z = F.normalize(z.float(), dim=1)
        update(4 - 2 * (p[:n] * z[n:]).sum(1).mean() - 2 * (p[n:] * z[:n]).sum(1).mean(), tx)
        with torch.no_grad():
            torch._foreach_lerp_(list(teacher.parameters()), list(net.parameters()), 0.004)

    return step, n


def bert(how: Setting, n: int, length: int, **sizes: int) -> Step:
    """BERT of transformers, masked language modeling; the items are tokens."""
    from transformers import BertConfig, BertForMaskedLM

    net = BertForMaskedLM(BertConfig(attn_implementation="sdpa", **sizes)).to(how.device)
    tx = torch.optim.AdamW(net.parameters(), 1e-4, fused=not how.cpu)
    run = how.compiled(net)
    x = torch.randint(0, net.config.vocab_size, (n, length), device=how.device)
    y = torch.where(torch.rand(n, length, device=how.device) < 0.15, x, -100)

    def step() -> None:
        with how.half():
            loss = run(input_ids=x, labels=y).loss
        update(loss, tx)

    return step, n * length


def gpt(how: Setting, n: int, length: int, **sizes: int) -> Step:
    """GPT-2 of transformers without dropout; the items are tokens."""
    from transformers import GPT2Config, GPT2LMHeadModel

    no_dropout = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    config = GPT2Config(
        attn_implementation="sdpa", n_positions=length, use_cache=False, **no_dropout, **sizes
    )
    net = GPT2LMHeadModel(config).to(how.device)
    tx = torch.optim.AdamW(net.parameters(), 6e-4, betas=(0.9, 0.95), fused=not how.cpu)
    run = how.compiled(net)
    x = torch.randint(0, net.config.vocab_size, (n, length), device=how.device)

    def step() -> None:
        with how.half():
            loss = run(input_ids=x, labels=x).loss
        update(loss, tx)

    return step, n * length


def update(loss: Tensor, tx: torch.optim.Optimizer) -> None:
    """Runs the backward pass and the optimizer."""
    tx.zero_grad(set_to_none=True)
    loss.backward()
    tx.step()
