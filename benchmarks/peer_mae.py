"""The MAE of `peers.py`, built of timm's blocks."""

import torch
from peer_steps import Setting, Step, update
from torch import Tensor, nn


class MAE(nn.Module):
    """He et al. 2022: 75 % of the patches hidden, mask tokens in the decoder, normalized pixels.

    Args:
      dim, depth, heads: of the encoder.
      decoder_dim, decoder_depth, decoder_heads: of the decoder.
      px: the side of an image.
      patch: the side of a patch.
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        heads: int,
        decoder_dim: int,
        decoder_depth: int,
        decoder_heads: int,
        px: int = 224,
        patch: int = 16,
    ) -> None:
        super().__init__()
        from timm.layers import PatchEmbed
        from timm.models.vision_transformer import Block

        def blocks(width: int, count: int, heads: int) -> nn.Module:
            return nn.Sequential(*[Block(width, heads, 4, qkv_bias=True) for _ in range(count)])

        self.patch = patch
        self.n = (px // patch) ** 2
        self.embed = PatchEmbed(px, patch, 3, dim)
        self.cls = nn.Parameter(torch.zeros(1, 1, dim))
        self.mask = nn.Parameter(torch.zeros(1, 1, decoder_dim))
        self.pos = nn.Parameter(torch.randn(1, self.n, dim) * 0.02, requires_grad=False)
        decoder_pos = torch.randn(1, self.n + 1, decoder_dim) * 0.02
        self.decoder_pos = nn.Parameter(decoder_pos, requires_grad=False)
        self.blocks = blocks(dim, depth, heads)
        self.norm = nn.LayerNorm(dim)
        self.bridge = nn.Linear(dim, decoder_dim)
        self.decoder_blocks = blocks(decoder_dim, decoder_depth, decoder_heads)
        self.decoder_norm = nn.LayerNorm(decoder_dim)
        self.pred = nn.Linear(decoder_dim, patch * patch * 3)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the loss of images [B, 3, px, px]."""
        b = len(x)
        keep = self.n // 4
        order = torch.rand(b, self.n, device=x.device).argsort(1)
        back = order.argsort(1)
        tokens = self.embed(x) + self.pos
        take = order[:, :keep, None].expand(-1, -1, tokens.shape[2])
        tokens = torch.cat([self.cls.expand(b, -1, -1).to(tokens.dtype), tokens.gather(1, take)], 1)
        h = self.bridge(self.norm(self.blocks(tokens)))
        full = torch.cat([h[:, 1:], self.mask.to(h.dtype).expand(b, self.n - keep, -1)], 1)
        full = full.gather(1, back[..., None].expand(-1, -1, h.shape[2]))
        full = torch.cat([h[:, :1], full], 1) + self.decoder_pos.to(h.dtype)
        pred = self.pred(self.decoder_norm(self.decoder_blocks(full)))[:, 1:].float()
        hidden = (back >= keep).float()
        return (((pred - self.pixels(x)) ** 2).mean(-1) * hidden).sum() / hidden.sum()

    def pixels(self, x: Tensor) -> Tensor:
        """Returns the normalized pixels of each patch, [B, patches, patch * patch * 3]."""
        b = len(x)
        p = self.patch
        g = x.shape[2] // p
        want = x.reshape(b, 3, g, p, g, p).permute(0, 2, 4, 3, 5, 1).reshape(b, g * g, -1).float()
        return (want - want.mean(-1, keepdim=True)) / (want.var(-1, keepdim=True) + 1e-6).sqrt()


def mae(how: Setting, n: int, *sizes: int) -> Step:
    """MAE with AdamW on ready views of 224 px."""
    net = MAE(*sizes).to(how.device)
    tx = torch.optim.AdamW(
        net.parameters(), 1e-4, betas=(0.9, 0.95), weight_decay=0.05, fused=not how.cpu
    )
    run = how.compiled(net)
    x = torch.randn(n, 3, 224, 224, device=how.device)

    def step() -> None:
        with how.half():
            loss = run(x)
        update(loss, tx)

    return step, n
