"""jssl train --config=configs/nnclr_imagenet.py --config.data.dir=DATA --workdir=runs/nnclr_in1k

NNCLR on ImageNet-1k (Dwibedi et al. 2021): ResNet-50, batch 4096, 1,000 epochs, LARS .3 x batch /
256, temperature .1, queue 98,304; linear probe 75.4 % (:epochs100 69.4 %). There is no code of the
authors to check against: of these values only the widths of the heads have been verified; rate,
decay, temperature, queue, views and figures are as the paper is remembered to state them.
Differences known: both views pass through BatchNorm together, images are first shrunk to a shorter
side of 256 (`data.max_side`).
"""

from jssl.recipes import TINY_RESNET, mlp, recipe, resnet, simclr_augment


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="nnclr",
            steps=312_784,  # 1,000 epochs of 1,281,167
            batch_size=4096,
            temperature=0.1, queue_size=98304,
            data=dict(source="tfds", name="imagenet2012", max_side=256, workers=16),
            model=resnet("resnet50", "imagenet", init="fan_out"),
            head=mlp(2048, 2048, 256, last="bn"),
            predictor=mlp(4096, 256, last="bias"),
            augment=simclr_augment(224, (0.08, 1.0), (0.4, 0.4, 0.2, 0.1), blur=1.0),
            augment_second_view=dict(blur_prob=0.1, solarize_prob=0.2),  # the second view
            optim=dict(
                name="lars", lr=0.3, lr_scaling="linear", warmup_steps=3_127, weight_decay=1e-6
            ),
            eval=dict(split="validation", crop_fraction=0.875),
        ),
        epochs100={"steps": 31_278},
        tiny=TINY_RESNET | {
            "head.features": (16, 8), "predictor.features": (16, 8), "queue_size": 64,
            "optim.warmup_steps": 1,
        },
    )  # fmt: skip
