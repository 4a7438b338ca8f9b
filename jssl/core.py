"""The contract between a method and everything else: named tuples of pure functions.

A method file ends in ``def build(config, data_info) -> Objective``. `jssl.training.setup` turns an
`Objective` into a `Method`: it adds the optimizer, micro-batches and GradCache. A GAN returns
`TwoPlayers`, to which setup adds two optimizers. Any other method may return a `Method` itself and
write its `train_step` with `gradient_step`.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import Array

Tree = Any
Params = dict[str, Any]  # params["encoder"] is what is pretrained
Buffers = dict[str, Any]
Batch = dict[str, Array]  # leading axis = global batch: image | tokens | ..., size, index, label
Metrics = dict[str, Array]  # float32 scalars; always has "loss"
Modality = Literal["image", "text", "audio", "video", "image_text", "signal"]


class Vocab(NamedTuple):
    """The ids of a tokenizer: how many there are, and those of special tokens."""

    size: int
    pad: int
    start: int
    end: int
    mask: int
    fingerprint: str = ""


class DatasetInfo(NamedTuple):
    """What only the data can tell. It is stored with the run, and given to `build`.

    Attributes:
      num_examples: examples of the training set, as a bank of examples needs them.
      modality: of the source.
      fields: shape and dtype of each array of one example.
      vocab: of a source of text; None for others.
      max_value: the pixel that is white in images of more than 8 bits; 0 for others.
    """

    num_examples: int
    modality: Modality
    fields: Mapping[str, jax.ShapeDtypeStruct]
    vocab: Vocab | None = None
    max_value: float = 0.0

    @property
    def vocab_size(self) -> int:
        """Ids of the tokenizer; 0 if the examples are no text."""
        return self.vocab.size if self.vocab else 0


class TrainState(struct.PyTreeNode):
    """All that a run carries from step to step, and so all that a checkpoint holds."""

    step: Array  # int32 []: updates done
    params: Tree  # what gradients change
    opt_state: Tree
    buffers: Tree  # remembered, not trained: BatchNorm statistics, EMA teacher, queue, center, bank
    skipped: Array = struct.field(default_factory=lambda: jnp.zeros(2, jnp.int32))
    # int32 [2]: updates that were not finite and therefore skipped, in a row and in all


class Panel(struct.PyTreeNode):
    """Columns of images for people to look at: a row for each example.

    Attributes:
      images: of each column, float [B, H, W, C] in 0..1; H and W may differ.
      captions: one for each column.
    """

    images: tuple[Any, ...]
    captions: tuple[str, ...] = struct.field(pytree_node=False)


class InitFn(Protocol):
    """Draws the parameters and the buffers from two examples, which give the shapes."""

    def __call__(self, rng: Array, batch: Batch, /) -> tuple[Params, Buffers]: ...


class LossFn(Protocol):
    """The loss float32 [], the next buffers, and metrics. `state.params` is not differentiated."""

    def __call__(
        self, params: Params, state: TrainState, batch: Batch, rng: Array, /
    ) -> tuple[Array, tuple[Buffers, Metrics]]: ...


class ForwardFn(Protocol):
    """The outputs of the networks, a tree of [B v, ...] with v rows of each example in a row, and
    the next buffers."""

    def __call__(
        self, params: Params, state: TrainState, batch: Batch, rng: Array, /
    ) -> tuple[Tree, Buffers]: ...


class OutputLossFn(Protocol):
    """The loss of the outputs of a `ForwardFn`, the next buffers, and metrics. `state.buffers` are
    those that `forward` returned."""

    def __call__(
        self, params: Params, outputs: Tree, state: TrainState, batch: Batch, rng: Array, /
    ) -> tuple[Array, tuple[Buffers, Metrics]]: ...


class EmbedFn(Protocol):
    """float32 [B, D]: the features that are evaluated."""

    def __call__(self, params: Params, buffers: Buffers, batch: Batch, /) -> Array: ...


class RenderFn(Protocol):
    """For people to look at: {name: panel, images [B, H, W, C] in 0..1, or token ids int32 [B, L]}.

    A method that compares views of images gets the panel "views" without a function of its own
    (`jssl.transforms.pictures`).
    """

    def __call__(
        self, params: Params, buffers: Buffers, batch: Batch, rng: Array, /
    ) -> Mapping[str, Array | Panel]: ...


class TokenNllFn(Protocol):
    """float32 [B, L]: -log p of each token in nats; -1 where a token does not count."""

    def __call__(self, params: Params, buffers: Buffers, batch: Batch, /) -> Array: ...


class SampleFn(Protocol):
    """float32 [count, H, W, C] in 0..1: new images of a generative model.

    `truncation` bounds the latents: those with a larger absolute value are drawn again; 0: no
    bound.
    """

    def __call__(
        self, params: Params, buffers: Buffers, rng: Array, count: int, truncation: float = 0.0, /
    ) -> Array: ...


class UpdateFn(Protocol):
    """The state with what changes once per update, before all micro-batches: an EMA teacher,
    prototypes back on the sphere, new clusters."""

    def __call__(self, state: TrainState, rng: Array, /) -> TrainState: ...


class GradientFn(Protocol):
    """((loss, (buffers, metrics)), gradient of ``state.params``), as `jax.value_and_grad` of the
    loss with ``has_aux`` returns it."""

    def __call__(
        self, state: TrainState, batch: Batch, rng: Array, /
    ) -> tuple[tuple[Array, tuple[Buffers, Metrics]], Params]: ...


class Objective(NamedTuple):
    """One scalar to minimize."""

    init: InitFn
    loss: LossFn
    embed: EmbedFn
    render: RenderFn | None = None
    token_nll: TokenNllFn | None = None
    before_update: UpdateFn | None = None
    stages: tuple[ForwardFn, OutputLossFn] | None = None  # see `split_objective`
    embeds: str = "encoder"  # whose encoder `embed` applies: "encoder", the trained one, "teacher"
    gradient: GradientFn | None = None  # None: that of `loss`; of several losses, a sum of theirs
    sample: SampleFn | None = None


class TwoPlayers(NamedTuple):
    """Two scalars that two players minimize in turn: a GAN.

    ``params["generator"]`` are the parameters of the generator. All others, with
    ``params["encoder"]``, are those of the discriminator. Each loss gets the parameters of its own
    player, which are differentiated; ``state.params`` has those of both. Both losses return the
    next buffers of all networks.

    Attributes:
      init: draws the parameters and the buffers of both.
      discriminator_loss: at least 0; it is the metric "loss".
      generator_loss: of as many examples as one step of the discriminator gets.
      embed: the features that are evaluated, of the discriminator.
      discriminator_steps: steps of the discriminator before each step of the generator. Each takes
        an equal part of the batch.
      before_update: runs once, before the steps of both: an EMA generator.
      render: for people to look at.
      sample: new images.
    """

    init: InitFn
    discriminator_loss: LossFn
    generator_loss: LossFn
    embed: EmbedFn
    discriminator_steps: int = 1
    before_update: UpdateFn | None = None
    render: RenderFn | None = None
    sample: SampleFn | None = None


def split_objective(
    init: InitFn,
    forward: ForwardFn,
    loss: OutputLossFn,
    embed: EmbedFn,
    before_update: UpdateFn | None = None,
    render: RenderFn | None = None,
    embeds: str = "encoder",
) -> Objective:
    """An objective that compares the examples of a batch, split in two.

    `forward` runs the networks, `loss` is computed from their outputs. GradCache needs the split.
    """

    def whole(
        params: Params, state: TrainState, batch: Batch, rng: Array
    ) -> tuple[Array, tuple[Buffers, Metrics]]:
        rng_forward, rng_loss = jax.random.split(rng)
        outputs, buffers = forward(params, state, batch, rng_forward)
        return loss(params, outputs, state.replace(buffers=buffers), batch, rng_loss)

    return Objective(
        init,
        whole,
        embed,
        render=render,
        before_update=before_update,
        stages=(forward, loss),
        embeds=embeds,
    )


class Method(NamedTuple):
    """What the loop, the evaluations and the benchmarks know of a method."""

    init: Callable[[Array, Batch], TrainState]
    train_step: Callable[[TrainState, Batch, Array], tuple[TrainState, Metrics]]  # pure, jittable
    embed: Callable[[TrainState, Batch], Array]  # as `EmbedFn`
    render: Callable[[TrainState, Batch, Array], Mapping[str, Array | Panel]] | None = None
    token_nll: Callable[[TrainState, Batch], Array] | None = None
    accumulate: int = 1  # micro-batches of one update of `train_step`
    grad_cache: bool = False  # whether the loss compares the examples of all of them
    compares: bool = False  # whether the loss compares the examples of a batch with each other
    embeds: str = "encoder"  # see `Objective`
    sample: Callable[[TrainState, Array, int, float], Array] | None = None  # as `SampleFn`
    accumulates: bool = False  # whether config.accumulate may be above 1
    turns: int = 1  # steps of one update, each on an equal part of the batch


def apply_gradients(
    value: Array,
    grads: Tree,
    params: Tree,
    opt_state: Tree,
    tx: optax.GradientTransformation,
) -> tuple[Tree, Tree, Metrics]:
    """Takes one optimizer step. Returns (params, opt_state, metrics); `value` is the loss."""
    updates, opt_state = tx.update(grads, opt_state, params)
    metrics = {
        "loss": value.astype(jnp.float32),
        "grad_norm": optax.tree.norm(grads).astype(jnp.float32),
        "update_norm": optax.tree.norm(updates).astype(jnp.float32),
    }
    return optax.apply_updates(params, updates), opt_state, metrics


def gradient_step(
    loss: Callable[[Tree], tuple[Array, Any]],
    params: Tree,
    opt_state: Tree,
    tx: optax.GradientTransformation,
) -> tuple[Tree, Tree, Any, Metrics]:
    """Takes one optimizer step on ``loss(params) -> (scalar, aux)``.

    Returns (params, opt_state, aux, metrics). A method of two players calls it once for each.
    """
    (value, aux), grads = jax.value_and_grad(loss, has_aux=True)(params)
    params, opt_state, metrics = apply_gradients(value, grads, params, opt_state, tx)
    return params, opt_state, aux, metrics
