"""The parts of recipes: `recipe`, and functions for sections that many recipes share.

Each function returns a dict of literals, a section of the config. The command line can set any of
its keys: ``--config.section.key=value``.
"""

import inspect
import logging
from collections.abc import Collection
from typing import Any

import ml_collections

from jssl.config import UserError, plugins, resolve_key, suggest

log = logging.getLogger("jssl")

# The keys of every run, which few recipes change. The values of a recipe replace these. What each
# key means is written beside its kind (`jssl.config.reference`).
DEFAULTS: dict[str, Any] = dict(
    seed=0,
    accumulate=1,
    grad_cache=False,
    init_from=dict(path="", part="encoder"),
    mesh=dict(data=-1, fsdp=0, tensor=1),
    data=dict(
        source="",
        name="",
        path="",
        dir="",
        split="train",
        max_side=0,
        channels=3,
        aspect=1.5,
        exif="auto",
        max_value=0.0,
        on_device=False,
        workers=0,
        max_corrupt_fraction=0.01,
        tokenizer="",
        seq_len=0,
        pack_documents=True,
        word_ids=False,
        encoding="",
        text_key="text",
    ),
    optim=dict(
        name="",
        lr=0.0,
        lr_final=0.0,
        lr_scaling="none",
        warmup_steps=0,
        schedule="cosine",
        drop_at=(),
        drop_factor=0.1,
        weight_decay=0.0,
        weight_decay_final=-1.0,
        no_decay=("bias$", "scale$"),
        clip_norm=0.0,
        clip_norm_per_tensor=0.0,
        lr_factors=(),
        lr_constant=(),
        layer_decay=1.0,
        momentum=0.9,
        nesterov=False,
        b1=0.9,
        b2=0.999,
        eps=1e-8,
        trust_coefficient=0.001,
        trust_clip=False,
        freeze=(),
        freeze_steps=0,
        muon_params=("/blocks/", r"/layer\d+_\d+/"),  # hidden kernels of a ViT, of a ResNet
    ),
    checkpoint=dict(every=1000, keep_latest=2, keep_best=1, export="auto"),
    eval=dict(
        every=0,
        patience=0,
        split="test",
        size=0,
        crop_fraction=1.0,
        layer="",
        batch_size=256,
        knn_k=200,
        knn_temperature=0.1,
        linear_lrs=(0.003, 0.01, 0.03, 0.1, 0.3, 1.0),
        linear_weight_decays=(0.0, 1e-4, 1e-3, 1e-2),
        linear_epochs=50,
        linear_batch_size=256,
        linear_val_fraction=0.1,
        linear_standardize=True,
        online_linear_epochs=10,
        generated=10_000,
        features="",
        lowshot_per_class=0,
        label_fraction=0.01,
        lowshot_seeds=5,
        lowshot_epochs=200,
        max_rows=512,
        prompt="",
        samples=4,
        new_tokens=64,
        temperature=0.8,
        top_k=40,
    ),
    finetune=dict(  # MAE's (table 9 of the paper) but for batch_size, there 1,024
        seed=0,
        epochs=100,
        batch_size=256,
        lr=1e-3,
        layer_decay=0.75,
        weight_decay=0.05,
        warmup_fraction=0.05,
        drop_path=0.1,
        pool="",
        dropout=0.1,
        mixup=0.8,
        label_smoothing=0.1,
        view="crop",
        crop_scale=(0.08, 1.0),
        flip_prob=0.5,
    ),
    alarm=dict(
        collapse="warn",
        min_feature_std=0.01,
        patience=3,
        max_consecutive_nonfinite=10,
        max_rollbacks=3,
        loss_spike_factor=3.0,
    ),
    log=dict(
        every=20,
        tensorboard=True,
        wandb="",
        mlflow="",
        profile_step=0,
        render_every=0,
        rank_every=200,
        observers=(),
    ),
)


def recipe(
    variant: str,
    sections: dict[str, Any] | ml_collections.ConfigDict,
    **variants: dict[str, Any],
) -> ml_collections.ConfigDict:
    """Makes the config of a recipe.

    Args:
      variant: the name of a variant, or several, applied in order: "solo+epochs50"; "": none.
      sections: the values of the recipe, which replace `DEFAULTS`.
      **variants: {"a.b": value} of each variant.

    Raises:
      UserError: the recipe has no such variant.
    """
    config = ml_collections.ConfigDict(DEFAULTS, type_safe=False)  # a duration may be a text
    config.update(sections)
    for name in variant.split("+") if variant else []:
        if name not in variants:
            raise UserError(f"the recipe has no variant {name!r}; {suggest(name, variants)}")
        for key, value in variants[name].items():
            section, last = resolve_key(config, key)
            section[last] = value
    return config.lock()


def resnet(name: str, stem: str, *, init: str = "torch", zero_init: bool = False) -> dict[str, Any]:
    """Section `model`: a ResNet of the published width in bfloat16; see `jssl.nn.resnet.build`."""
    return dict(
        name=name, stem=stem, width=64, zero_init_residual=zero_init, init=init, dtype="bfloat16"
    )


def vit(
    name: str,
    patch: int,
    size: int,
    *,
    positions: str = "learned",
    init: str = "trunc02",
    drop_path: float = 0.0,
) -> dict[str, Any]:
    """Section `model`: a ViT in bfloat16 with a class token; see `jssl.nn.vit.build`."""
    return dict(
        name=name,
        patch=patch,
        image_size=size,
        class_token=True,
        pool="cls",
        positions=positions,
        drop_path=drop_path,
        remat="none",
        scan=False,
        attention="auto",
        init=init,
        dtype="bfloat16",
        residual_dtype="float32",
        registers=0,
        norm_eps=1e-6,
        layer_scale=0.0,
        feed_forward="gelu",
        mlp_width=0,
        key_bias=True,
        rope_rescale=1.0,
    )


def text(
    name: str,
    length: int,
    *,
    init: str,
    pool: str = "mean",
    dropout: float = 0.0,
    positions: str = "learned",
) -> dict[str, Any]:
    """Section `model`: a text encoder in bfloat16; see `jssl.nn.text.build`."""
    return dict(
        name=name,
        length=length,
        positions=positions,
        pool=pool,
        dropout=dropout,
        remat="none",
        scan=False,
        attention="auto",
        init=init,
        dtype="bfloat16",
        residual_dtype="float32",
        norm_eps=1e-5 if name.startswith("gpt") else 1e-12,
    )


USED_BY = {  # keys of `optim` that only some optimizers have
    "momentum": ("sgd", "lars", "larc", "muon"),
    "nesterov": ("sgd", "lars", "larc"),
    "b1": ("adamw", "lamb", "muon"),
    "b2": ("adamw", "lamb", "muon"),
    "eps": ("adamw", "lamb", "muon"),
    "trust_coefficient": ("lars", "larc"),
    "trust_clip": ("larc",),
    "muon_params": ("muon",),
    "weight_decay_final": ("sgd", "lars", "adamw", "lamb"),
}


SCHEDULES_WITH = {  # keys of `optim` that only some schedules have
    "lr_final": ("cosine",),
    "drop_at": ("steps",),
    "drop_factor": ("steps",),
}


def reset_unused(config: ml_collections.ConfigDict, overrides: Collection[str]) -> None:
    """Resets the keys of `optim` that mean nothing after the overrides of other keys, in place.

    They are the settings of the optimizer and of the schedule before, and the patterns of a freeze
    that is off now. Keys in `overrides` stay: `jssl.optim` refuses those of them that mean nothing.
    """
    optim: Any = config.get("optim", {})
    second: Any = config.get("optim_discriminator", {})
    unused = []
    if "optim.name" in overrides and not plugins.is_outside(optim.name):
        unused += [key for key, names in USED_BY.items() if optim.name not in names]
    if "optim.schedule" in overrides:
        unused += [key for key, names in SCHEDULES_WITH.items() if optim.schedule not in names]
    if "optim.freeze_steps" in overrides and not optim.freeze_steps:
        unused.append("freeze")
    with config.unlocked():
        for key in unused:
            default = DEFAULTS["optim"][key]
            if f"optim.{key}" not in overrides and optim[key] != default:
                log.info("--config.optim.%s=%r is reset to %r", key, optim[key], default)
                optim[key] = default
            if key in second and f"optim_discriminator.{key}" not in overrides:
                log.info("--config.optim_discriminator.%s=%r is left out", key, second[key])
                del second[key]


FAMILIES = {"resnet": "resnet", "vit": "vit", "bert": "text", "gpt": "text"}  # by prefix
KEPT = ("dtype", "residual_dtype", "attention", "remat", "scan", "length")  # see swap_model


def family(name: str) -> str:
    """The family of an encoder by its name: resnet, vit, text, or the name itself."""
    return FAMILIES.get(name.partition("_")[0].rstrip("0123456789"), name)


def swap_model(config: ml_collections.ConfigDict, name: str) -> None:
    """Replaces section `model` if `name` is an encoder of another family than its own.

    The new section has the published values of the family, for images of the size
    ``augment.size``. `KEPT` keys keep their values. An encoder outside jssl has the defaults of its
    function.
    """
    old: Any = config.get("model")
    if old is None or family(str(old.get("name"))) == family(name):
        return
    new = model_section(config, name)
    if new is None:
        return
    new |= {key: old[key] for key in KEPT if key in new and key in old}
    with config.unlocked():
        config.model = ml_collections.ConfigDict(new)
    values = ", ".join(f"{key}={value!r}" for key, value in new.items())
    log.info("config.model: %s replaces %s: %s", name, old.get("name"), values)


def model_section(config: ml_collections.ConfigDict, name: str) -> dict[str, Any] | None:
    """The section `model` of an encoder in a recipe that has another one; None: not known."""
    augment: Any = config.get("augment", {})
    data: Any = config.get("data", {})
    size = augment.get("size", 224)
    if plugins.is_outside(name):
        parameters = inspect.signature(plugins.resolve("config.model.name", name)).parameters
        empty = inspect.Parameter.empty
        given = {key: p.default for key, p in parameters.items() if p.default is not empty}
        return given | {"name": name}
    if family(name) == "resnet":
        return resnet(name, "cifar" if size <= 64 else "imagenet")
    if family(name) == "vit":
        patch = next((p for p in (16, 8, 4, 2) if size % p == 0 and size // p >= 7), 1)
        return vit(name, patch, size)
    if family(name) == "text":
        length = data.get("seq_len", 0) or 128
        return text(name, length, init="gpt" if name.startswith("gpt") else "bert")
    return None


# Section `finetune` for text: BERT's values (Devlin et al. 2019, appendix A.3), with four epochs as
# in Turc et al.; the rate, 5e-5 at 32 examples, is given per 256. The head gets the mean of the
# tokens and not [CLS], which is untrained without next-sentence prediction; finetune.pool="first"
# is the published choice (benchmarks/RESULTS.md has figures of both).
TEXT_FINETUNE = dict(
    epochs=4,
    batch_size=32,
    lr=4e-4,
    layer_decay=1.0,
    weight_decay=0.01,
    warmup_fraction=0.1,
    mixup=0.0,
    label_smoothing=0.0,
)


LAST = {  # the end of a head: (last_norm, last_scale, last_bias)
    "bias": (False, False, True),  # Dense with bias
    "plain": (False, False, False),  # Dense alone
    "bn": (True, True, True),  # Dense, BatchNorm
    "bn_scale": (True, True, False),  # Dense, BatchNorm that learns no bias
    "bn_plain": (True, False, False),  # Dense, BatchNorm that learns nothing
}


def mlp(
    *features: int,
    last: str,
    norm: bool = True,
    activation: str = "relu",
    init: str = "torch",
) -> dict[str, Any]:
    """Section `head` or `predictor`: an MLP of these widths; see `jssl.nn.heads`."""
    last_norm, last_scale, last_bias = LAST[last]
    return dict(
        features=features,
        norm=norm,
        last_norm=last_norm,
        last_scale=last_scale,
        last_bias=last_bias,
        activation=activation,
        init=init,
    )


IMAGENET = dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
CIFAR = dict(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))


def simclr_augment(
    size: int,
    scale: tuple[float, float],
    jitter: tuple[float, float, float, float],
    *,
    blur: float = 0.0,
    solarize: float = 0.0,
    pixels: dict[str, tuple[float, float, float]] = IMAGENET,
) -> dict[str, Any]:
    """Section `augment`: the view of most methods.

    The operations are a resized crop, a flip (probability .5), color jitter (.8), grayscale (.2),
    blur and solarization.

    Args:
      size: height and width of the view in pixels.
      scale: smallest and largest share of the area that is cropped.
      jitter: brightness, contrast, saturation, hue.
      blur: probability.
      solarize: probability.
      pixels: mean and standard deviation of each channel.
    """
    brightness, contrast, saturation, hue = jitter
    return dict(
        mode="fused",
        size=size,
        crop_scale=scale,
        crop_ratio=(3 / 4, 4 / 3),
        flip_prob=0.5,
        jitter_prob=0.8,
        brightness=brightness,
        contrast=contrast,
        saturation=saturation,
        hue=hue,
        gray_prob=0.2,
        blur_prob=blur,
        blur_sigma=(0.1, 2.0),
        blur_kernel="whole",
        solarize_prob=solarize,
        **pixels,
    )


def crop_and_flip(
    size: int,
    scale: tuple[float, float],
    *,
    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0),
    flip: float = 0.5,
) -> dict[str, Any]:
    """Section `augment` of masked methods: crop and flip; color jitter, if set, always applies."""
    sections = simclr_augment(size, scale, jitter)
    return sections | dict(flip_prob=flip, gray_prob=0.0, jitter_prob=float(any(jitter)))


def whole_images(
    size: int, pixels: dict[str, tuple[float, float, float]], *, flip: float = 0.0
) -> dict[str, Any]:
    """Section `augment` of square images that are `size` pixels large already: no crop, no resize.

    Args:
      size: height and width of the images in pixels.
      pixels: mean and standard deviation of each channel.
      flip: probability of a horizontal flip.
    """
    section = crop_and_flip(size, (1.0, 1.0), flip=flip)
    return section | dict(crop_ratio=(1.0, 1.0)) | pixels


# Sizes for tests: the embedded digits, two steps per second.
TINY = {
    "steps": 6,
    "batch_size": 16,
    "data.source": "digits",
    "data.split": "train[:3%]",
    "data.max_side": 32,
    "data.workers": 0,
    "augment.size": 32,
    "model.dtype": "float32",
    "checkpoint.every": 2,
    "eval.every": 3,
    "eval.split": "test[:5%]",
    "log.every": 1,
    "log.rank_every": 2,
}
TINY_RESNET = TINY | {"model.name": "resnet_test", "model.width": 8}
TINY_VIT = TINY | {"model.name": "vit_test", "model.patch": 8, "model.image_size": 32}
TINY_TEXT = {  # the pages of Python's own help
    "steps": 6,
    "batch_size": 16,
    "data.source": "pydoc",
    "data.tokenizer": "bytes",
    "data.split": "train[:10%]",
    "data.seq_len": 32,
    "model.length": 32,
    "model.dtype": "float32",
    "optim.warmup_steps": 1,
    "checkpoint.every": 2,
    "log.every": 1,
    "log.rank_every": 2,
}
# lightly's CIFAR-10 benchmark (docs/source/getting_started/benchmarks/cifar10_benchmark.py): SGD,
# rate .06 at 128 examples, decay of every parameter, no warm-up, cosine to 0, no blur.
LIGHTLY = dict(name="sgd", lr=0.12, lr_scaling="linear", weight_decay=5e-4, no_decay=())
# solo-learn's CIFAR-10 runs (scripts/pretrain/cifar): 1,000 epochs of 195 batches of 256. The
# values are those of its shell scripts; the later YAML files differ: they blur half of the views
# (augmentations/symmetric*.yaml, ImageNet's) and name an ImageNet-100 folder as val_path.
# Differences: convolution padding 1 and not 2 in the stem, warm-up from 0 and not 3e-5.
SOLO_OPTIM = dict(
    name="larc", lr_scaling="linear", warmup_steps=1_950, trust_coefficient=0.02, trust_clip=True
)
SOLO_LEARN = {
    "steps": 195_000,
    "batch_size": 256,
    "model.init": "fan_out",
    "optim.no_decay": ("bias$", "scale$"),
    **{f"optim.{key}": value for key, value in SOLO_OPTIM.items()},
    **{f"augment.{key}": value for key, value in CIFAR.items()},
}
SOLO_SGD = SOLO_LEARN | {
    "optim.name": "sgd",
    "optim.trust_coefficient": 0.001,
    "optim.trust_clip": False,
}
EPOCHS50 = {"steps": 4_882, "batch_size": 512}  # of CIFAR-10's 50,000
