"""jssl train --config=configs/jigsaw_vit_imagenette.py --config.data.dir=DATA --workdir=runs/jigsaw

Jigsaw-ViT on Imagenette (160 px): a ViT-S tells the places of 8 x 8 shuffled patches of 16 pixels
in cells of 20. The head is that of the paper, three layers. No settings are published for this data
set; optimizer and length are those of mae_imagenette.py.
"""

from jssl.recipes import TINY_VIT, crop_and_flip, mlp, recipe, vit


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="jigsaw_vit",
            steps=29_590,  # 800 epochs of 9,469
            batch_size=256,
            grid=8, tile=16,
            data=dict(source="tfds", name="imagenette/160px-v2", max_side=160, on_device=True),
            model=vit("vit_s", 16, 128),
            head=mlp(384, 384, 64, last="bias", norm=False),
            augment=crop_and_flip(160, (0.2, 1.0)) | dict(gray_prob=0.66),
            optim=dict(
                name="adamw", lr=1.5e-4, lr_scaling="linear", warmup_steps=1_480, b2=0.95,
                weight_decay=0.05,
            ),
            checkpoint=dict(every=2_000),
            eval=dict(every=3_700, split="validation", size=128),
            log=dict(render_every=3_700),
            finetune=dict(pool="mean"),
        ),
        tiny=TINY_VIT | {
            "grid": 2, "tile": 12, "model.patch": 12, "model.image_size": 24, "eval.size": 24,
            "head.features": (16, 4), "optim.warmup_steps": 1, "augment.crop_scale": (0.9, 1.0),
            "augment.flip_prob": 0.0,
        },
    )  # fmt: skip
