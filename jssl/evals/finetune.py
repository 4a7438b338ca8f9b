"""Fine-tuning: the whole encoder learns to classify, from a checkpoint of any method.

The protocol of MAE (He et al., arXiv 2111.06377, table 9; code: facebookresearch/mae
main_finetune.py): AdamW, a rate per 256 examples that shrinks from layer to layer towards the
input, linear warm-up and half a cosine to 0, drop path, mixup, label smoothing. The head is linear
on `encoder.features` and drawn as there, N(0, 2e-5), bias 0. The accuracy is that of the end; no
step is chosen by the test. Not as there: no RandAugment, random erasing, CutMix; `pool` averages
tokens after the pretrained last LayerNorm, not before a new one.
"""

import collections
import contextlib
import math
import re
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jssl import nn, optim
from jssl.config import Config, UserError, call_with_section
from jssl.core import DatasetInfo, Method, TrainState, gradient_step
from jssl.data.loader import Feed
from jssl.evals import knn
from jssl.evals.features import Features
from jssl.losses import soft_cross_entropy
from jssl.nn.apply import apply
from jssl.parallel import mesh
from jssl.transforms import augment, views

NO_DECAY = ("bias$", "scale$", "cls_token$", "pos_embed$")  # util/lr_decay.py, timm's ViT


def check(config: Config, data_info: DatasetInfo) -> None:
    """`UserError` for values of ``config.finetune`` that are right alone (`jssl.config.schema`) and
    wrong for the encoder or the views of pretraining: found when a run begins, not when it is over.

    A method with networks or views of its own cannot be fine-tuned here, and is not looked at.
    """
    config = Config(config._tree)  # what is read here is not yet read by the method
    size = data_info.vocab_size
    if not owned(lambda: nn.encoder(config.model, size, packed=config.data.pack_documents)):
        finetune_encoder(config, data_info)
    if not owned(lambda: views.two_views(config)):
        view(config)


def owned(build) -> bool:
    """Whether jssl can't build of a config what `build()` does."""
    try:
        build()
    except UserError:
        return True
    return False


def finetune(run, state, test, say) -> dict:
    """Top-1 on the source `test` after fine-tuning the encoder of `state` on the run's own data, as
    ``config.finetune`` says (`jssl.recipes.DEFAULTS`). `say(what)` makes a progress(done, total,
    note).

    Returns top1, n_train and n_test (labelled), epochs, seconds (all of it, compiling too)."""
    began = time.perf_counter()
    section = run.config.finetune
    source = run.data.source
    size = section.batch_size
    mesh.check_batch("config.finetune.batch_size", size, mesh.batch_parts(run.mesh), "devices")
    epoch, steps = (-(-epochs * len(source) // size) for epochs in (1, section.epochs))
    method = build(run, optimizer(section, steps))

    def keys():
        return jax.random.split(jax.random.key(section.seed))

    def start(state):
        return method.init(keys()[0], state)

    places = mesh.shardings(jax.eval_shape(start, state), run.mesh)
    tuned = jax.jit(start, out_shardings=places)(state)
    feed = Feed(run.data, section.seed, size, run.mesh, 0, say(f"reading {source.name}"))
    update = mesh.with_mesh(run.mesh, method.train_step)

    def step(now, held, fed):
        return update(now, feed.batch(held, fed), keys()[1])

    step = jax.jit(step, donate_argnums=0, out_shardings=(places, None))
    with contextlib.closing(feed):
        tuned = loop(step, tuned, feed, steps, epoch, section.lr, say("fine-tuning, steps"))
    features = Features(method.embed, run.mesh, run.config.eval.batch_size)
    read = features.whole(tuned, test, say(test.name))
    classes = len(source.classes)
    answers, labels = knn.labelled(read.features, read.labels, classes=classes, name="test")
    top1 = float(np.mean(answers[:, 0] == labels))
    known = int(tuned.buffers["known"])
    found = {"top1": top1, "n_train": known, "n_test": len(labels), "epochs": section.epochs}
    found["unreadable_examples"] = read.unreadable + len(feed.damaged)
    return found | {"seconds": round(time.perf_counter() - began, 1)}


def loop(step, state, feed, steps: int, epoch: int, lr: float, progress, ahead: int = 8):
    """The state after so many steps, `ahead` of them at most queued on the device. `UserError` as
    soon as the loss is not finite, or if the first `epoch` steps have shown no label."""
    queued = collections.deque()
    for i in range(steps):
        state, metrics = step(state, feed.held, feed.next())
        queued.append(metrics["loss"])
        while len(queued) > (ahead if i + 1 < steps else 0):
            loss = float(queued.popleft())
            if not math.isfinite(loss):
                raise UserError(f"config.finetune.lr={lr:g} diverged; try {lr / 10:g}")
            progress(i + 1, steps, f", loss {loss:.4f}")
        if i + 1 == epoch and not state.buffers["known"]:
            raise UserError("eval: no train example has a label; choose a labelled config.data")
    return state


def build(run, tx) -> Method:
    """Fine-tuning as a method whose `init` takes the pretrained state in the place of a batch, and
    whose `embed` gives the predicted class, float32 [B, 1]."""
    section = run.config.finetune
    source = run.data.source
    read = reader(run)
    encoder = finetune_encoder(run.config, run.data_info)
    classes = len(source.classes)

    def encode(f, stats, x, extra, rng=None):
        rngs = None if rng is None else {"drop_path": rng, "dropout": rng}
        out, stats = apply(encoder, f, stats, x, train=rng is not None, rngs=rngs, **extra)
        return encoder.features(out, **extra), stats

    def forward(params, stats, *rest):
        z, stats = encode(params["encoder"], stats, *rest)
        return z @ params["head"]["kernel"] + params["head"]["bias"], stats

    def init(rng, pretrained):
        stats = pretrained.buffers.get("stats", {}).get("encoder", {})
        f = pretrained.params["encoder"]
        width = jax.eval_shape(lambda f: encode(f, stats, *read(run.example))[0], f).shape[-1]
        head = {"kernel": 2e-5 * jax.random.normal(rng, (width, classes))}
        params = {"encoder": f, "head": head | {"bias": jnp.zeros(classes)}}
        buffers = {"stats": stats, "known": jnp.int32(0)}  # known: labelled examples of an epoch
        return TrainState(jnp.int32(0), params, tx.init(params), buffers)

    def loss(params, state, batch, rng):
        rng_view, rng_mix, rng_net = jax.random.split(jax.random.fold_in(rng, state.step), 3)
        x, extra = read(batch, rng_view)
        target = smoothed_one_hot(batch["label"], classes, section.label_smoothing)
        if section.mixup and "image" in batch:
            share = jax.random.beta(rng_mix, section.mixup, section.mixup)
            x = mixup(x, share)
            target = mixup(target, share)
        logits, stats = forward(params, state.buffers["stats"], x, extra, rng_net)
        place = jnp.minimum(state.step, 1 + len(source) // len(x)) * len(x) + jnp.arange(len(x))
        known = jnp.sum((batch["label"] >= 0) & (place < len(source)))  # the first are an epoch
        buffers = {"stats": stats, "known": state.buffers["known"] + known}
        return soft_cross_entropy(logits, target), buffers

    def train_step(state, batch, rng):
        def now(params):
            return loss(params, state, batch, rng)

        params, opt_state, buffers, metrics = gradient_step(now, state.params, state.opt_state, tx)
        return TrainState(state.step + 1, params, opt_state, buffers), metrics

    def predict(state, batch):
        logits, _ = forward(state.params, state.buffers["stats"], *read(batch))
        return logits.argmax(-1, keepdims=True).astype(jnp.float32)

    return Method(init, train_step, predict)


def finetune_encoder(config, data_info):
    """The encoder of pretraining, with fine-tuning's drop path, dropout and pooling, where it has
    them."""
    section = config.finetune
    model = dict(config.model)
    model |= {key: section[key] for key in ("drop_path", "dropout") if key in model}
    model |= {"pool": section.pool} if section.pool else {}
    try:
        return nn.encoder(model, data_info.vocab_size, packed=config.data.pack_documents)
    except UserError as error:
        raise UserError(f"config.finetune.pool={section.pool!r}: {error}") from None


def reader(run):
    """f(batch, rng=None) -> (x, keywords) of the encoder: all that the kind of batch decides.

    Of images a random view, or without `rng` the one of evaluation; tokens as they are. `view`:
    "crop" is a crop of `crop_scale` and a flip, "augment" and "augment_second_view" those of
    pretraining.
    """
    if "image" not in run.example:
        return lambda batch, rng=None: (batch["tokens"], {"segment": batch["segment"]})
    some = view(run.config)
    centre = views.eval_view(run.config)

    def look(batch, rng):
        return some(rng, batch["image"], batch["size"])

    return lambda batch, rng=None: (centre(batch) if rng is None else look(batch, rng), {})


def view(config):
    """The view of training, see `reader`."""
    section = config.finetune
    (first, second) = views.sections(config)
    plain = dict.fromkeys(("jitter_prob", "gray_prob", "blur_prob", "solarize_prob"), 0.0)
    plain |= {"crop_scale": section.crop_scale, "flip_prob": section.flip_prob}
    known = {"crop": first | plain, "augment": first, "augment_second_view": second or first}
    return call_with_section(
        augment.view, known[section.view], "finetune", dtype=config.model.dtype
    )


def smoothed_one_hot(labels, classes: int, smoothing: float):
    """Smoothed one-hot rows [B, classes], sum 1; of an unlabelled row (-1) 0: it has no loss."""
    even = smoothing / classes * (labels >= 0)[:, None]
    return (1 - smoothing) * jax.nn.one_hot(labels, classes) + even


def mixup(x, share):
    """mixup (arXiv 1710.09412): rows i and -1 - i, one share for all, as timm's mode "batch"."""
    return (share * x.astype(jnp.float32) + (1 - share) * x[::-1]).astype(x.dtype)


def optimizer(section, steps: int) -> optax.GradientTransformation:
    """AdamW with the learning rates of `lr_scales`."""
    rate = optim.learning_rate(
        lr=section.lr,
        lr_final=0.0,
        lr_scaling="linear",
        schedule="cosine",
        steps=steps,
        warmup_steps=int(section.warmup_fraction * steps),
        batch_size=section.batch_size,
    )
    adamw = optax.adamw(rate, weight_decay=section.weight_decay, mask=optim.mask(NO_DECAY))

    def scaled(u, _):
        return jax.tree.map(jnp.multiply, u, lr_scales(u, section.layer_decay))

    return optax.chain(adamw, optax.stateless(scaled))


def lr_scales(params, decay: float):
    """What the learning rate of each parameter is multiplied by: decay ** (depth + 1 - layer).

    ViT (BEiT; MAE's util/lr_decay.py): embeddings are layer 0 (BERT's norm too), block i is i + 1,
    the last norm and the head depth + 1. ResNet (not published): stem 0, stages 1 to 4, head 5."""
    end = "head/" if "type_embed" in params["encoder"] else "head/|encoder/norm/"

    def layer(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if found := re.match(r"encoder/(?:blocks/(\d+)/|layer(\d+)_)", name):
            return 1 + int(found[1]) if found[1] else int(found[2])
        if name.startswith("encoder/blocks/layers/"):  # stacked: model.scan
            return 1 + np.arange(len(leaf)).reshape(-1, *[1] * (leaf.ndim - 1))
        return math.inf if re.match(end, name) else 0

    layers = jax.tree_util.tree_map_with_path(layer, params)
    last = 1 + max(np.max(x) for x in jax.tree.leaves(layers) if np.max(x) < math.inf)
    return jax.tree.map(lambda x: np.float32(decay ** (last - np.minimum(x, last))), layers)
