"""A target network: the same modules with weights that follow the trained ones.

The moving average goes first, before the forward pass: with a target that starts as the trained
network, that gives the sequence of targets which averaging after the update gives. The target in a
checkpoint is therefore one update behind; `follow` once more brings it up to date.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jssl.config.values import Share
from jssl.nn.apply import EncoderWithHeads
from jssl.ops import cosine_schedule, ema

KEYS = {"ema": Share, "ema_final": Share}  # of a method that has a target


class Teacher(NamedTuple):
    """Buffers "target" (parameters) and "target_stats" (BatchNorm) of the modules of `net`.

    `extra` names parameters beside the modules' that are averaged too (DINO's prototypes).
    """

    net: EncoderWithHeads
    decay: tuple[float, float]
    steps: int
    extra: tuple[str, ...] = ()

    def start(self, params, stats) -> dict:
        """The buffers at step 0: copies, as a step may reuse the memory of either."""
        some = lambda tree, names: {name: jax.tree.map(jnp.copy, tree[name]) for name in names}
        return {
            "target": some(params, (*self.net.modules, *self.extra)),
            "target_stats": some(stats, self.net.modules),
        }

    def follow(self, state, rng):
        """`prepare` of an objective: old * decay + new * (1 - decay), decay by half a cosine."""
        decay = self.now(state)
        old = state.buffers["target"]
        new = ema(old, {name: state.params[name] for name in old}, decay)
        return state.replace(buffers=state.buffers | {"target": new})

    def now(self, state):
        """The decay of this step, float32 []."""
        return cosine_schedule(state.step, self.steps, *self.decay).astype(jnp.float32)

    def __call__(self, buffers, x):
        """({name: output}, buffers) of x in training mode: BatchNorm uses the batch's statistics,
        and no path is dropped."""
        out, stats = self.net(buffers["target"], buffers["target_stats"], x, train=True)
        return out, buffers | {"target_stats": stats}


def teacher_from_config(
    config, net: EncoderWithHeads, *names: str, extra: tuple[str, ...] = ()
) -> Teacher:
    """The target for modules `names` of `net`; ``config.ema`` to ``config.ema_final``."""
    still = lambda m: m.clone(drop_path=0.0) if getattr(m, "drop_path", 0) else m
    some = EncoderWithHeads({name: still(net.modules[name]) for name in names})
    return Teacher(some, (config.ema, config.ema_final), config.steps, extra)
