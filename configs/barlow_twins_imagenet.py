"""jssl train --config=configs/barlow_twins_imagenet.py --config.data.dir=DATA --workdir=runs/bt_in

Barlow Twins on ImageNet-1k as published (facebookresearch/barlowtwins README and main.py):
ResNet-50, batch 2048, 1,000 epochs, LARS .2 x batch / 256, .0048 for biases and scales; linear
probe 73.5 %. Differences: crops are bilinear and not bicubic, images are first shrunk to a shorter
side of 256 (`data.max_side`), both views pass through BatchNorm together.
"""

from jssl.recipes import TINY_RESNET, mlp, recipe, resnet, simclr_augment


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="barlow_twins",
            steps=625_569,  # 1,000 epochs of 1,281,167
            batch_size=2048,
            loss_scale=1.0, lambda_=0.0051,  # lambda
            data=dict(source="tfds", name="imagenet2012", max_side=256, workers=16),
            model=resnet("resnet50", "imagenet", init="fan_out", zero_init=True),
            head=mlp(8192, 8192, 8192, last="plain"),
            augment=simclr_augment(224, (0.08, 1.0), (0.4, 0.4, 0.2, 0.1), blur=1.0),
            augment_second_view=dict(blur_prob=0.1, solarize_prob=0.2),  # the second view
            optim=dict(
                name="larc", lr=0.2, lr_final=2e-4, lr_scaling="linear", warmup_steps=6_255,
                weight_decay=1e-6, lr_factors=(("bias$|scale$", 0.024),),
            ),
            eval=dict(split="validation", crop_fraction=0.875),
        ),
        tiny=TINY_RESNET | {"head.features": (16, 8), "optim.warmup_steps": 1},
    )  # fmt: skip
