"""jssl train --config=configs/simmim_imagenette.py --config.data.dir=DATA --workdir=runs/simmim

SimMIM on Imagenette (160 px) at 128 px: ViT-S/16, batch 256, 800 epochs, with the paper's settings
for ViT-B on ImageNet (Xie et al. 2022, section 4.1.1: squares of 32 pixels, .6 hidden, AdamW, decay
.05; rate 1e-4 at 512). lightly's Imagenette benchmark has it with a ViT-B/32: kNN .343.
"""

from jssl.recipes import TINY_VIT, crop_and_flip, recipe, vit


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="simmim",
            steps=29_590,  # 800 epochs of 9,469
            batch_size=256,
            mask_ratio=0.6, mask_unit=32,
            data=dict(source="tfds", name="imagenette/160px-v2", max_side=160, on_device=True),
            model=vit("vit_s", 16, 128, init="beit", drop_path=0.1),
            augment=crop_and_flip(128, (0.67, 1.0)),
            optim=dict(
                name="adamw", lr=5e-5, lr_scaling="linear", warmup_steps=1_480, weight_decay=0.05,
                clip_norm=5.0,
            ),
            checkpoint=dict(every=2_000),
            eval=dict(every=3_700, split="validation"),
            log=dict(render_every=3_700),
        ),
        tiny=TINY_VIT | {"mask_unit": 8, "optim.warmup_steps": 1, "log.render_every": 3},
    )  # fmt: skip
