"""The kinds of the keys that every recipe has, and their check before anything is built.

A section that holds a function's keyword arguments has its kinds in the signature of that function.
The other sections (`SECTIONS`) have them here. The keys of a method are in `KEYS` of its module
(`jssl.methods.load`).
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import ml_collections

from jssl import data, optim
from jssl.config import values
from jssl.config.values import (
    Count,
    Every,
    Length,
    NonNegative,
    Part,
    Positive,
    Range,
    Rate,
    Share,
    Steps,
    Whole,
)
from jssl.errors import ConfigError
from jssl.parallel import mesh
from jssl.transforms import augment

TOP: dict[str, Any] = {
    "method": Annotated[str, "name of a file in jssl/methods, or a module such as my_fork.method"],
    "seed": Annotated[
        int,
        Range(0, 2**63 - 1),
        "random seed of the initial weights, the views and the order of examples",
    ],
    "steps": Annotated[Steps, "number of updates of the run"],
    "batch_size": Annotated[Count, "examples per update, of all devices and micro-batches"],
    "accumulate": Annotated[Count, "micro-batches per update, computed one after another"],
    "grad_cache": Annotated[
        bool, "with accumulate: the loss still compares all examples of the batch"
    ],
}
SECTIONS: dict[str, dict[str, Any]] = {
    "init_from": {
        "path": Annotated[
            str,
            "weights to start from: a folder or file of timm, transformers, jssl; empty: none",
        ],
        "part": Annotated[
            Literal["encoder", "teacher"],
            "which encoder of a workdir: the trained one, or its moving average",
        ],
    },
    "eval": {
        "every": Annotated[
            Every, "steps between two evaluations, by kNN and linear probe; 0: never"
        ],
        "patience": Annotated[
            Whole, "evaluations without a better kNN accuracy that end the run; 0: off"
        ],
        "split": Annotated[str, "part of the data set that evaluations use as test set"],
        "size": Annotated[
            int, Range(0, 2**14), "side of the evaluation view, in pixels; 0: augment.size"
        ],
        "crop_fraction": Annotated[
            float, Range(0.01, 1), "side of the evaluation crop / shorter side of the image"
        ],
        "layer": Annotated[
            str,
            'evaluated layer: "stage3" of a ResNet, "block9" of a ViT; empty: the features',
        ],
        "batch_size": Annotated[Count, "examples per batch of an evaluation"],
        "knn_k": Annotated[Count, "number of nearest neighbors that vote"],
        "knn_temperature": Annotated[
            Positive, "temperature T of a neighbor's vote, exp(cosine similarity / T)"
        ],
        "linear_lrs": Annotated[
            tuple[Positive, ...],
            Length(1),
            "learning rates that the linear probe tries, per 256 examples",
        ],
        "linear_weight_decays": Annotated[
            tuple[NonNegative, ...],
            Length(1),
            "weight decays that the linear probe tries; during training only 0",
        ],
        "linear_epochs": Annotated[Count, "epochs of the linear probe of jssl eval"],
        "linear_batch_size": Annotated[Count, "examples per batch of the linear probe"],
        "linear_val_fraction": Annotated[
            Part, "share of the training set held out to choose learning rate and weight decay"
        ],
        "linear_standardize": Annotated[bool, "the linear probe standardizes each feature"],
        "online_linear_epochs": Annotated[
            Whole, "epochs of the linear probe during training; 0: no probe"
        ],
        "generated": Annotated[Count, "generation: number of images that are compared"],
        "features": Annotated[
            str, "generation: workdir of the encoder whose features are compared; empty: pixels"
        ],
        "lowshot_per_class": Annotated[
            Whole, "labels per class of the low-shot probe; 0: use label_fraction"
        ],
        "label_fraction": Annotated[
            float,
            Range(0, 1, above=True),
            "share of the labels of each class, if lowshot_per_class is 0",
        ],
        "lowshot_seeds": Annotated[Count, "draws of labels; the low-shot probe runs once for each"],
        "lowshot_epochs": Annotated[Count, "epochs of each low-shot probe"],
        "max_rows": Annotated[Whole, "rows of text that perplexity reads; 0: all"],
        "prompt": Annotated[
            str, "text for generate and fill-mask, with <mask> as mask; empty: held-out text"
        ],
        "samples": Annotated[Count, "number of texts of generate and fill-mask"],
        "new_tokens": Annotated[Count, "tokens that generate adds to a prompt, at most"],
        "temperature": Annotated[
            NonNegative, "softmax temperature of generate; 0: the likeliest token"
        ],
        "top_k": Annotated[Whole, "generate samples from the k likeliest tokens; 0: from all"],
    },
    "finetune": {
        "seed": Annotated[int, Range(0, 2**63 - 1), "random seed of fine-tuning"],
        "epochs": Annotated[Count, "epochs of fine-tuning"],
        "batch_size": Annotated[Count, "examples per update"],
        "lr": Annotated[Positive, "peak learning rate per 256 examples"],
        "layer_decay": Annotated[
            float,
            Range(0.001, 1),
            "factor of the learning rate from each layer to the one below; 1.0: off",
        ],
        "weight_decay": Annotated[NonNegative, "weight decay of AdamW"],
        "warmup_fraction": Annotated[
            float, Range(0, 0.99), "share of the steps in which the learning rate rises from 0"
        ],
        "drop_path": Annotated[Rate, "rate of stochastic depth of the last block, for a ViT"],
        "pool": Annotated[str, "model.pool of fine-tuning; empty: as in pretraining"],
        "dropout": Annotated[Rate, "rate of dropout, for a text encoder"],
        "mixup": Annotated[NonNegative, "alpha of mixup's Beta(alpha, alpha), for images; 0: off"],
        "label_smoothing": Annotated[
            Rate, "share of the target that is spread over all classes; 0: off"
        ],
        "view": Annotated[
            Literal["crop", "augment", "augment_second_view"],
            'training view: "crop" (and flip), or that of a section of pretraining',
        ],
        "crop_scale": Annotated[
            augment.Areas, 'range of the area of the crop, as a share of the image, for view "crop"'
        ],
        "flip_prob": Annotated[Share, 'probability of a horizontal flip, for view "crop"'],
    },
    "alarm": {
        "collapse": Annotated[
            Literal["warn", "stop", "off"],
            "reaction to collapsed features: a warning, the end of the run, or none",
        ],
        "min_feature_std": Annotated[
            NonNegative, "the features are collapsed if the metric feature_std is below this"
        ],
        "patience": Annotated[
            Count, "log records in a row with collapsed features before the alarm"
        ],
        "max_consecutive_nonfinite": Annotated[
            Whole, "skipped updates in a row that cause a rollback; 0: never roll back"
        ],
        "max_rollbacks": Annotated[
            Whole, "largest number of rollbacks; then the run ends with an error"
        ],
        "loss_spike_factor": Annotated[
            float,
            Range(1, also=(0,)),
            "warn if the loss exceeds this times its recent median; 0: off",
        ],
    },
    "checkpoint": {
        "every": Annotated[Every, "steps between two checkpoints; 0: only at the end"],
        "keep_latest": Annotated[Count, "number of newest checkpoints that are kept"],
        "keep_best": Annotated[
            Whole, "number of best checkpoints, by kNN accuracy, that are also kept"
        ],
        "export": Annotated[
            Literal["auto", "timm", "hf", "torchvision", "safetensors", "none"],
            "format of the folder export/ that a finished run writes; auto: the first that fits",
        ],
    },
    "log": {
        "every": Annotated[Count, "steps between two log records"],
        "tensorboard": Annotated[bool, "write TensorBoard files to the workdir"],
        "wandb": Annotated[str, "project of Weights & Biases; empty: off"],
        "mlflow": Annotated[str, "experiment of MLflow; empty: off"],
        "profile_step": Annotated[Every, "step after which 5 steps are profiled; 0: off"],
        "render_every": Annotated[
            Every, "steps between two pictures or texts of the predictions; 0: never"
        ],
        "rank_every": Annotated[Every, "steps between two values of the metric rank; 0: never"],
        "observers": Annotated[
            tuple[str, ...], "observers of your own by dotted names, called after every step"
        ],
    },
}
for section, function in (("mesh", mesh.make_mesh), ("data", data.load), ("optim", optim.build)):
    SECTIONS[section] = values.documented_kinds(function)
SECTIONS[optim.DISCRIMINATOR] = SECTIONS["optim"]  # those keys that differ
# Each method passes these sections to a function of its choice.
BOUND = (
    "model",
    "augment",
    "augment_second_view",
    "local",
    "head",
    "predictor",
    "decoder",
    "feature_decoder",
    "patch_head",
    "teacher",
    "teacher_model",
    "teacher_head",
    "generator",
)


def check(tree: ml_collections.ConfigDict) -> None:
    """Checks every value of a config against the kind of its key.

    An unknown key is wrong only if it holds a number that is not finite.

    Raises:
      UserError: one line for the first wrong value, for a section in place of a value, or for a
        value in place of a section.
    """
    value: Any
    for key, value in tree.items():
        section = isinstance(value, ml_collections.ConfigDict)
        if key in SECTIONS:
            values.check_all(f"config.{key}", value, SECTIONS[key])
        elif key in BOUND and not section:
            raise ConfigError(f"config.{key}", value, "must be a section", "see configs/")
        elif key in TOP:
            values.check(f"config.{key}", value, TOP[key])
        else:
            check_finite(f"config.{key}", value)


def check_key(dotted: str, value: Any) -> None:
    """Checks one key, ``section.name``, for callers that have a value and no config."""
    section, _, name = dotted.partition(".")
    values.check(f"config.{dotted}", value, SECTIONS[section][name])


def check_finite(key: str, value: Any) -> None:
    """Raises `UserError` if a number in `value`, a value or a section, is not finite."""
    if isinstance(value, Mapping | ml_collections.ConfigDict):
        for name, inner in value.items():
            check_finite(f"{key}.{name}", inner)
    else:
        values.check(key, value, object)
