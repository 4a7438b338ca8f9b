"""jssl train --config=configs/relative_patch_imagenette.py --config.data.dir=DATA --workdir=runs/r

Relative patch location on Imagenette (160 px): tiles of 36 pixels in cells of 48, ResNet-18, one
channel of each tile. No settings are published for this data set. Rate per image, drops of the rate
and head are those of relative_patch_imagenet.py, the length is a quarter of the 800 epochs of other
Imagenette recipes: an image has nine tiles.
"""

from jssl.recipes import TINY_RESNET, crop_and_flip, mlp, recipe, resnet


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="relative_patch",
            steps=14_795,  # 200 epochs of 9,469
            batch_size=128,
            tile=36, color="drop",
            data=dict(source="tfds", name="imagenette/160px-v2", max_side=160, on_device=True),
            model=resnet("resnet18", "imagenet", init="fan_out"),
            head=mlp(1024, 8, last="bias"),
            augment=crop_and_flip(144, (0.5, 1.0)) | dict(crop_ratio=(1.0, 1.0)),
            optim=dict(
                name="sgd", lr=0.1, lr_scaling="linear", warmup_steps=1_056, weight_decay=1e-4,
                no_decay=(),
                schedule="steps", drop_at=(30 / 70, 50 / 70),
            ),
            checkpoint=dict(every=2_000),
            eval=dict(every=3_700, split="validation", size=128),
            log=dict(render_every=3_700),
        ),
        tiny=TINY_RESNET | {
            "tile": 10, "head.features": (16, 8), "optim.warmup_steps": 1, "eval.size": 32,
            "augment.crop_scale": (0.9, 1.0), "augment.flip_prob": 0.0,
        },
    )  # fmt: skip
