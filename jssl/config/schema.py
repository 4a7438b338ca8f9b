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
    "method": str,
    "seed": Annotated[int, Range(0, 2**63 - 1)],
    "steps": Steps,
    "batch_size": Count,
    "accumulate": Count,
    "grad_cache": bool,
}
SECTIONS: dict[str, dict[str, Any]] = {
    "eval": {
        "every": Every,
        "split": str,
        "size": Annotated[int, Range(0, 2**14)],
        "crop_fraction": Annotated[float, Range(0.01, 1)],
        "batch_size": Count,
        "knn_k": Count,
        "knn_temperature": Positive,
        "linear_lrs": Annotated[tuple[Positive, ...], Length(1)],
        "linear_weight_decays": Annotated[tuple[NonNegative, ...], Length(1)],
        "linear_epochs": Count,
        "linear_batch_size": Count,
        "linear_val_fraction": Part,
        "linear_standardize": bool,
        "online_linear_epochs": Whole,
        "lowshot_per_class": Whole,
        "label_fraction": Annotated[float, Range(0, 1, above=True)],
        "lowshot_seeds": Count,
        "lowshot_epochs": Count,
        "max_rows": Whole,
        "prompt": str,
        "samples": Count,
        "new_tokens": Count,
        "temperature": NonNegative,
        "top_k": Whole,
    },
    "finetune": {
        "seed": Annotated[int, Range(0, 2**63 - 1)],
        "epochs": Count,
        "batch_size": Count,
        "lr": Positive,
        "layer_decay": Annotated[float, Range(0.001, 1)],
        "weight_decay": NonNegative,
        "warmup_fraction": Annotated[float, Range(0, 0.99)],
        "drop_path": Rate,
        "pool": str,
        "dropout": Rate,
        "mixup": NonNegative,
        "label_smoothing": Rate,
        "view": Literal["crop", "augment", "augment_second_view"],
        "crop_scale": augment.Areas,
        "flip_prob": Share,
    },
    "alarm": {
        "collapse": Literal["warn", "stop", "off"],
        "min_feature_std": NonNegative,
        "patience": Count,
        "max_consecutive_nonfinite": Whole,
        "max_rollbacks": Whole,
        "loss_spike_factor": Annotated[float, Range(1, also=(0,))],
    },
    "checkpoint": {"every": Every, "keep_latest": Count, "keep_best": Whole},
    "log": {
        "every": Count,
        "tensorboard": bool,
        "wandb": str,
        "mlflow": str,
        "profile_step": Every,
        "render_every": Every,
        "rank_every": Every,
        "observers": tuple[str, ...],
    },
}
for section, function in (("mesh", mesh.make_mesh), ("data", data.load), ("optim", optim.build)):
    SECTIONS[section] = values.kinds_of(function)
# Each method passes these sections to a function of its choice.
BOUND = (
    "model",
    "augment",
    "augment_second_view",
    "local",
    "head",
    "predictor",
    "decoder",
    "patch_head",
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
