"""jssl train --config=configs/simmim_vitb_imagenet.py --config.data.dir=DATA --workdir=runs/simmimb

SimMIM ViT-B/16 on ImageNet-1k as published (Xie et al. 2022, comparison on ViT-B): batch 2048, 800
epochs, AdamW 8e-4, decay .05, 20 epochs of warm-up, cosine; squares of 32 pixels, .6 hidden, drop
path .1 and clip 5 (microsoft/SimMIM configs/vit_base__800ep); fine-tuned 83.8 % (its README). That
configuration's own schedule is not one of jssl's: 4e-4 after 10 epochs, a tenth of it from epoch
700. Other differences: learned positions and no relative ones (there a bias that all blocks share,
in fine-tuning one each), no layer scale, images are first shrunk to a shorter side of 256
(`data.max_side`), no clipping in fine-tuning.
"""

from jssl.recipes import TINY_VIT, crop_and_flip, recipe, vit


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="simmim",
            steps=500_455,  # 800 epochs of 1,281,167
            batch_size=2048,
            mask_ratio=0.6, mask_unit=32,  # 30 of 49 squares: rounded up
            data=dict(source="tfds", name="imagenet2012", max_side=256, workers=16),
            model=vit("vit_b", 16, 224, init="beit", drop_path=0.1),
            augment=crop_and_flip(224, (0.67, 1.0)),
            optim=dict(
                name="adamw", lr=1e-4, lr_scaling="linear", warmup_steps=12_511, weight_decay=0.05,
                no_decay=("bias$", "scale$", "cls_token$", "pos_embed$"), clip_norm=5.0,
            ),
            eval=dict(split="validation", crop_fraction=0.875),
            finetune=dict(
                epochs=100, batch_size=2048, lr=6.25e-4, layer_decay=0.65, warmup_fraction=0.2,
                drop_path=0.1, pool="mean",
            ),
        ),
        tiny=TINY_VIT | {"mask_unit": 8, "optim.warmup_steps": 1, "log.render_every": 3},
    )  # fmt: skip
