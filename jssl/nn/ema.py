"""An EMA teacher: the same modules, with a moving average of the trained weights.

The average is updated before the forward pass. As the teacher starts with the weights of the
trained network, the sequence of teachers is the same as with an average after the update. The
teacher in a checkpoint is therefore one update behind; one more `Teacher.update` removes the lag.
"""

from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jssl.config import Config
from jssl.config.values import Share
from jssl.core import Buffers, Params, TrainState
from jssl.nn.apply import EncoderWithHeads
from jssl.ops import cosine_schedule, ema

KEYS = {  # of a method that has a teacher
    "ema_decay": Annotated[Share, "EMA decay of the teacher's weights at step 0"],
    "ema_decay_final": Annotated[Share, "EMA decay at the last step, along half a cosine"],
}


class Teacher(NamedTuple):
    """The buffers "teacher" (parameters) and "teacher_stats" (BatchNorm) of the modules of `net`.

    Attributes:
      net: the modules.
      decay_range: the decay at the first and at the last step.
      steps: of the run.
      extra: names of other parameters that are averaged too (DINO's prototypes).
    """

    net: EncoderWithHeads
    decay_range: tuple[float, float]
    steps: int
    extra: tuple[str, ...] = ()

    def init(self, params: Params, stats: Buffers) -> Buffers:
        """The buffers at step 0. They are copies, because a step may reuse the memory of both."""
        names = tuple(self.net.modules)
        return {
            "teacher": {name: jax.tree.map(jnp.copy, params[name]) for name in names + self.extra},
            "teacher_stats": {name: jax.tree.map(jnp.copy, stats[name]) for name in names},
        }

    def update(self, state: TrainState, rng: Array) -> TrainState:
        """``before_update`` of an objective: old * decay + new * (1 - decay)."""
        old = state.buffers["teacher"]
        student = {name: state.params[name] for name in old}
        new = ema(old, student, self.decay(state))
        return state.replace(buffers=state.buffers | {"teacher": new})

    def decay(self, state: TrainState) -> Array:
        """The decay of this step, float32 []: half a cosine between the ends of `decay_range`."""
        return cosine_schedule(state.step, self.steps, *self.decay_range).astype(jnp.float32)

    def __call__(self, buffers: Buffers, x: Array) -> tuple[dict[str, Array], Buffers]:
        """Runs the teacher on x in training mode. Returns ({name: output}, buffers).

        BatchNorm uses the statistics of the batch; there is no stochastic depth.
        """
        outputs, stats = self.net(buffers["teacher"], buffers["teacher_stats"], x, train=True)
        return outputs, buffers | {"teacher_stats": stats}


def teacher_from_config(
    config: Config, net: EncoderWithHeads, *names: str, extra: tuple[str, ...] = ()
) -> Teacher:
    """The teacher of the modules `names` of `net`, with ``config.ema_decay(_final)``."""
    modules = {}
    for name in names:
        module = net.modules[name]
        has_drop_path = getattr(module, "drop_path", 0.0) > 0
        modules[name] = module.clone(drop_path=0.0) if has_drop_path else module
    decay_range = (config.ema_decay, config.ema_decay_final)
    return Teacher(EncoderWithHeads(modules), decay_range, config.steps, extra)
