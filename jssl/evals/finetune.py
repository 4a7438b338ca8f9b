"""Fine-tuning: the whole encoder learns to classify, from a checkpoint of any method.

The protocol of MAE (He et al., arXiv 2111.06377, table 9; code: facebookresearch/mae
main_finetune.py): AdamW, a learning rate per 256 examples that decreases from layer to layer
towards the input, linear warm-up and half a cosine to 0, drop path, mixup, label smoothing. The
head is linear on `encoder.features`, with the initialization of the reference: N(0, 2e-5), bias 0.
The accuracy is measured at the end; the test set selects no step. Unlike the reference: no
RandAugment, random erasing, CutMix; `pool` averages tokens after the pretrained last LayerNorm, not
before a new one.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jssl import nn
from jssl.config import Config, ConfigError, UserError, call_with_section
from jssl.core import (
    Batch,
    Buffers,
    DatasetInfo,
    Method,
    Metrics,
    Params,
    TrainState,
    gradient_step,
)
from jssl.data.loader import Feed
from jssl.data.source import Source
from jssl.evals import knn
from jssl.evals.features import Features
from jssl.losses import soft_cross_entropy
from jssl.nn.apply import apply
from jssl.optim.layers import decay_layers
from jssl.optim.schedules import learning_rate
from jssl.optim.transforms import mask
from jssl.parallel import mesh
from jssl.perf import compiler
from jssl.transforms import augment, views

if TYPE_CHECKING:
    from jssl.training.setup import Run

NO_DECAY = ("bias$", "scale$", "cls_token$", "pos_embed$")  # util/lr_decay.py, timm's ViT


def check(config: Config, data_info: DatasetInfo) -> None:
    """Raises UserError if `config.finetune` does not fit the encoder or the views of pretraining.

    `jssl.config.schema` has checked each value alone. This check runs when a run begins, so that
    the error does not come at its end. A method with its own networks or views cannot be fine-tuned
    here, and is not checked.

    Args:
      config: the config of the run.
      data_info: the facts about its data set.
    """
    config = Config(config._tree)  # a key that only this check reads stays unused
    size = data_info.vocab_size
    if not owned(lambda: nn.encoder(config.model, size, packed=config.data.pack_documents)):
        finetune_encoder(config, data_info)
    if not owned(lambda: views.two_views(config)):
        view(config)


def owned(build: Callable[[], object]) -> bool:
    """Returns whether `build()` raises UserError: the method has its own networks or views."""
    try:
        build()
    except UserError:
        return True
    return False


def finetune(
    run: Run,
    state: TrainState,
    test: Source,
    say: Callable[[str], Callable[..., None]],
    save: Callable[[TrainState], None] = lambda tuned: None,
) -> dict[str, Any]:
    """Fine-tunes the encoder of a state on the run's own data, and returns top-1 on `test`.

    Args:
      run: the run. `config.finetune` holds the options (`jssl.recipes.DEFAULTS`).
      state: the pretrained state.
      test: the test source.
      say: say(what) makes a progress(done, total, note).
      save: save(tuned) is called with the fine-tuned state.

    Returns:
      top1, n_train and n_test (labeled examples), epochs, unreadable_examples, and seconds
      (including compilation).
    """
    began = time.perf_counter()
    section = run.config.finetune
    source = run.data.source
    size = section.batch_size
    mesh.check_batch("config.finetune.batch_size", size, mesh.batch_parts(run.mesh), "devices")
    epoch, steps = (-(-epochs * len(source) // size) for epochs in (1, section.epochs))
    method = build(run, optimizer(section, steps))
    tuned, num_damaged = _train(run, method, state, epoch, steps, say)
    save(tuned)
    features = Features(method.embed, run.mesh, run.config.eval.batch_size)
    embedded = features.whole(tuned, test, say(test.name))
    assert source.classes is not None, "the caller has checked it"
    classes = len(source.classes)
    predictions, labels = knn.labeled(
        embedded.features, embedded.labels, classes=classes, name="test"
    )
    return {
        "top1": float(np.mean(predictions[:, 0] == labels)),
        "n_train": int(tuned.buffers["known"]),
        "n_test": len(labels),
        "epochs": section.epochs,
        "unreadable_examples": embedded.unreadable + num_damaged,
        "seconds": round(time.perf_counter() - began, 1),
    }


def _train(
    run: Run,
    method: Method,
    state: TrainState,
    epoch: int,
    steps: int,
    say: Callable[[str], Callable[..., None]],
) -> tuple[TrainState, int]:
    """Trains for `steps` steps; returns the state, and the number of damaged examples."""
    section = run.config.finetune
    source = run.data.source
    size = section.batch_size

    def keys(seed):
        return jax.random.split(jax.random.key(seed))

    def start(state, seed):
        return method.init(keys(seed)[0], state)

    shardings = mesh.shardings(jax.eval_shape(start, state, section.seed), run.mesh)
    tuned = jax.jit(start, out_shardings=shardings)(state, section.seed)
    feed = Feed(run.data, section.seed, size, run.mesh, 0, say(f"reading {source.name}"))
    update = mesh.with_mesh(run.mesh, method.train_step)

    def step(state, held, fed, seed):  # an argument, so that all seeds share one program
        return update(state, feed.batch(held, fed), keys(seed)[1])

    jitted = compiler.jit(step, run.mesh, donate_argnums=0, out_shardings=(shardings, None))

    with contextlib.closing(feed):
        progress = say("fine-tuning, steps")
        jit_step = functools.partial(jitted, seed=section.seed)
        tuned = loop(jit_step, tuned, feed, steps, epoch, section.lr, progress)
    return tuned, len(feed.damaged)


def loop(
    step: Callable[..., tuple[TrainState, Metrics]],
    state: TrainState,
    feed: Feed,
    steps: int,
    epoch: int,
    lr: float,
    progress: Callable[[int, int, str], None],
    ahead: int = 8,
) -> TrainState:
    """Runs the steps of fine-tuning.

    Args:
      step: step(state, held, fed) -> (state, metrics), jitted.
      state: the state before the first step.
      feed: the batches.
      steps: number of steps.
      epoch: number of steps of one epoch.
      lr: the learning rate, for messages.
      progress: progress(done, total, note) is called after each step.
      ahead: largest number of steps that are queued on the device.

    Returns:
      The state after the last step.

    Raises:
      UserError: the loss is not finite, or the first epoch had no label.
    """
    queued = collections.deque()
    for i in range(steps):
        state, metrics = step(state, feed.held, feed.next())
        queued.append(metrics["loss"])
        while len(queued) > (ahead if i + 1 < steps else 0):
            loss = float(queued.popleft())
            if not math.isfinite(loss):
                raise ConfigError("config.finetune.lr", lr, "diverged", f"try {lr / 10:g}")
            progress(i + 1, steps, f", loss {loss:.4f}")
        if i + 1 == epoch and not state.buffers["known"]:
            raise UserError(
                "no example of the training set has a label; name a labeled --config.data.name"
            )
    return state


def build(run: Run, tx: optax.GradientTransformation) -> Method:
    """Builds fine-tuning as a method.

    Its `init` takes the pretrained state instead of a batch. Its `embed` returns the predicted
    class, float32 [B, 1].

    Args:
      run: the run.
      tx: the optimizer.
    """
    section = run.config.finetune
    source = run.data.source
    read = reader(run)
    encoder = finetune_encoder(run.config, run.data_info)
    assert source.classes is not None, "the caller has checked it"
    classes = len(source.classes)

    def encode(f, stats, x, extra, rng=None):
        rngs = None if rng is None else {"drop_path": rng, "dropout": rng}
        out, stats = apply(encoder, f, stats, x, train=rng is not None, rngs=rngs, **extra)
        return encoder.features(out, **extra), stats

    def forward(params, stats, *rest):
        z, stats = encode(params["encoder"], stats, *rest)
        return z @ params["head"]["kernel"] + params["head"]["bias"], stats

    def init(rng: jax.Array, pretrained: Any) -> TrainState:
        stats = pretrained.buffers.get("stats", {}).get("encoder", {})
        encoder_params = pretrained.params["encoder"]

        def example_features(f):
            return encode(f, stats, *read(run.example))[0]

        width = jax.eval_shape(example_features, encoder_params).shape[-1]
        head = {"kernel": 2e-5 * jax.random.normal(rng, (width, classes))}
        params = {"encoder": encoder_params, "head": head | {"bias": jnp.zeros(classes)}}
        buffers = {"stats": stats, "known": jnp.int32(0)}  # known: labeled examples of an epoch
        return TrainState(jnp.int32(0), params, tx.init(params), buffers)

    def loss(
        params: Params, state: TrainState, batch: Batch, rng: jax.Array
    ) -> tuple[jax.Array, Buffers]:
        rng_view, rng_mix, rng_net = jax.random.split(jax.random.fold_in(rng, state.step), 3)
        x, extra = read(batch, rng_view)
        target = smoothed_one_hot(batch["label"], classes, section.label_smoothing)
        if section.mixup and "image" in batch:
            weight = jax.random.beta(rng_mix, section.mixup, section.mixup)
            x = mixup(x, weight)
            target = mixup(target, weight)
        logits, stats = forward(params, state.buffers["stats"], x, extra, rng_net)
        position = jnp.minimum(state.step, 1 + len(source) // len(x)) * len(x) + jnp.arange(len(x))
        is_first_epoch = position < len(source)
        num_labeled = jnp.sum((batch["label"] >= 0) & is_first_epoch)
        buffers = {"stats": stats, "known": state.buffers["known"] + num_labeled}
        return soft_cross_entropy(logits, target), buffers

    def train_step(state: TrainState, batch: Batch, rng: jax.Array) -> tuple[TrainState, Metrics]:
        params, opt_state, buffers, metrics = gradient_step(
            lambda params: loss(params, state, batch, rng), state.params, state.opt_state, tx
        )
        return TrainState(state.step + 1, params, opt_state, buffers), metrics

    def predict(state: TrainState, batch: Batch) -> jax.Array:
        logits, _ = forward(state.params, state.buffers["stats"], *read(batch))
        return logits.argmax(-1, keepdims=True).astype(jnp.float32)

    return Method(init, train_step, predict)


def finetune_encoder(config: Config, data_info: DatasetInfo) -> Any:
    """Builds the encoder of pretraining with fine-tuning's drop path, dropout and pooling.

    An encoder without one of these options is built without it.

    Raises:
      UserError: the encoder cannot pool as `config.finetune.pool` demands.
    """
    section = config.finetune
    model = dict(config.model)
    model |= {key: section[key] for key in ("drop_path", "dropout") if key in model}
    model |= {"pool": section.pool} if section.pool else {}
    try:
        return nn.encoder(model, data_info.vocab_size, packed=config.data.pack_documents)
    except UserError as error:
        raise UserError(f"--config.finetune.pool={section.pool!r}: {error}") from None


def reader(run: Run) -> Callable[..., tuple[jax.Array, dict[str, jax.Array]]]:
    """Returns f(batch, rng=None) -> (x, keywords), the input of the encoder.

    Tokens are passed on unchanged. An image becomes a random view, or without `rng` the view of
    evaluation. `finetune.view` selects the random view: "crop" is a crop of `crop_scale` and a
    flip; "augment" and "augment_second_view" are those of pretraining.
    """
    if "image" not in run.example:

        def read_tokens(batch, rng=None):
            return batch["tokens"], {"segment": batch["segment"]}

        return read_tokens
    train_view = view(run.config)
    eval_view = views.eval_view(run.config)

    def read_images(batch, rng=None):
        if rng is None:
            return eval_view(batch), {}
        return train_view(rng, batch["image"], batch["size"]), {}

    return read_images


def view(config: Config) -> Callable[[jax.Array, jax.Array, jax.Array], jax.Array]:
    """Returns the view of training, (rng, image, size) -> image; see `reader`."""
    section = config.finetune
    (first, second) = views.sections(config)
    plain = dict.fromkeys(("jitter_prob", "gray_prob", "blur_prob", "solarize_prob"), 0.0)
    plain |= {"crop_scale": section.crop_scale, "flip_prob": section.flip_prob}
    sections = {"crop": first | plain, "augment": first, "augment_second_view": second or first}
    return call_with_section(
        augment.view, sections[section.view], "finetune", dtype=config.model.dtype
    )


def smoothed_one_hot(labels: jax.Array, classes: int, smoothing: float) -> jax.Array:
    """Returns smoothed one-hot rows of labels [B]: float32 [B, classes], with the sum 1.

    The row of an unlabeled example (-1) is 0: it has no loss.
    """
    even = smoothing / classes * (labels >= 0)[:, None]
    return (1 - smoothing) * jax.nn.one_hot(labels, classes) + even


def mixup(x: jax.Array, weight: jax.Array) -> jax.Array:
    """Mixes rows i and -1 - i of x [B, ...] (mixup, arXiv 1710.09412).

    All rows have the same `weight`, as in timm's mode "batch".
    """
    return (weight * x.astype(jnp.float32) + (1 - weight) * x[::-1]).astype(x.dtype)


def optimizer(section: Any, steps: int) -> optax.GradientTransformation:
    """Returns AdamW with the learning rates of `layer_scales`; `section` is `config.finetune`."""
    rate = learning_rate(
        lr=section.lr,
        lr_final=0.0,
        lr_scaling="linear",
        schedule="cosine",
        steps=steps,
        warmup_steps=int(section.warmup_fraction * steps),
        batch_size=section.batch_size,
    )
    adamw = optax.adamw(rate, weight_decay=section.weight_decay, mask=mask(NO_DECAY))

    return optax.chain(adamw, decay_layers(section.layer_decay))
