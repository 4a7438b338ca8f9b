"""jssl train --config=configs/ijepa_vith_imagenet.py --config.data.dir=DATA --workdir=runs/ijepa_h

I-JEPA ViT-H/14 on ImageNet-1k as published (facebookresearch/ijepa configs/in1k_vith14_ep300.yaml):
batch 2048, 300 epochs, AdamW 1e-3 to 1e-6, decay .04 to .4, 40 epochs of warm-up, average .996 to
1, four targets of .15 to .2, context of .85 to 1, predictor of 12 blocks; linear probe 79.3 %
(Assran et al. 2023, table 1), 1 % of the labels 73.3 % (table 2). Differences: the context is cut
to .27 of the patches, where theirs is cut to the smallest of the 128 images on a device (on average
.27 too); blocks may reach the last row and column (see `jssl.methods.ijepa`); the warm-up starts
from 0 and not 2e-4, the average rises by half a cosine and not linearly, images are first shrunk to
a shorter side of 256 (`data.max_side`).
"""

from jssl.recipes import TINY_VIT, crop_and_flip, recipe, vit


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="ijepa",
            steps=187_670,  # 300 epochs of 1,281,167
            batch_size=2048,
            num_targets=4, target_area=(0.15, 0.2), target_aspect=(0.75, 1.5),
            context_area=(0.85, 1.0), context_fraction=0.27, min_context_patches=10,
            ema_decay=0.996, ema_decay_final=1.0,
            data=dict(source="tfds", name="imagenet2012", max_side=256, workers=16),
            model=vit("vit_h", 14, 224, positions="sincos", init="normal02")
            | dict(class_token=False, pool="mean"),
            predictor=dict(dim=384, depth=12, heads=16),
            augment=crop_and_flip(224, (0.3, 1.0), flip=0.0),
            optim=dict(
                name="adamw", lr=1.25e-4, lr_scaling="linear", lr_final=1.25e-7,
                warmup_steps=25_022, weight_decay=0.04, weight_decay_final=0.4,
            ),
            eval=dict(split="validation", crop_fraction=0.875),
        ),
        tiny=TINY_VIT | {
            "predictor.dim": 16, "predictor.depth": 1, "predictor.heads": 2,
            "optim.warmup_steps": 1, "context_fraction": 0.25, "min_context_patches": 1,
        },
    )  # fmt: skip
