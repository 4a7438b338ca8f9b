"""jssl train --config=configs/shifted_image_imagenette.py --config.data.dir=DATA --workdir=runs/s

Shifted windows of Imagenette (160 px): 96 of 128 pixels, shifted by up to 32. No paper describes
this task (jssl/methods/shifted_image.py); the encoder is a ViT-S/16, whose map has 6 x 6 positions,
and optimizer and length are those of mae_imagenette.py.
"""

from jssl.recipes import TINY_VIT, crop_and_flip, recipe, vit


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="shifted_image",
            steps=29_590,  # 800 epochs of 9,469
            batch_size=256,
            window=96, max_shift=32,
            data=dict(source="tfds", name="imagenette/160px-v2", max_side=160, on_device=True),
            model=vit("vit_s", 16, 96) | dict(class_token=False, pool="mean"),
            decoder=dict(dim=256, depth=3),
            augment=crop_and_flip(128, (0.2, 1.0)),
            optim=dict(
                name="adamw", lr=1.5e-4, lr_scaling="linear", warmup_steps=1_480, b2=0.95,
                weight_decay=0.05,
            ),
            checkpoint=dict(every=2_000),
            eval=dict(every=3_700, split="validation", size=96),
            log=dict(render_every=3_700),
        ),
        tiny=TINY_VIT | {
            "window": 24, "max_shift": 8, "model.image_size": 24, "eval.size": 24,
            "decoder.dim": 16, "decoder.depth": 1, "optim.warmup_steps": 1,
        },
    )  # fmt: skip
