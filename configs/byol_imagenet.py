"""jssl train --config=configs/byol_imagenet.py --config.data.dir=DATA --workdir=runs/byol_in1k

BYOL on ImageNet-1k as published (deepmind-research byol/configs, README): ResNet-50, batch 4096,
1,000 epochs, LARS .2 x batch / 256; linear probe 74.4 % (paper 74.3). :epochs300 has its preset of
300 epochs. Differences: the target starts as a copy of the network and not with weights of its own;
crops are bilinear and not bicubic, brightness is multiplied and not added; both views pass through
BatchNorm together; images are first shrunk to a shorter side of 256 (`data.max_side`).
"""

from jssl.recipes import TINY_RESNET, mlp, recipe, resnet, simclr_augment


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="byol",
            steps=312_784,  # 1,000 epochs of 1,281,167
            batch_size=4096,
            ema_decay=0.996, ema_decay_final=1.0,
            data=dict(source="tfds", name="imagenet2012", max_side=256, workers=16),
            model=resnet("resnet50", "imagenet", init="lecun"),
            head=mlp(4096, 256, last="plain", init="lecun"),
            predictor=mlp(4096, 256, last="plain", init="lecun"),
            augment=simclr_augment(224, (0.08, 1.0), (0.4, 0.4, 0.2, 0.1), blur=1.0)
            | dict(blur_kernel="tenth"),
            augment_second_view=dict(blur_prob=0.1, solarize_prob=0.2),  # the second view
            optim=dict(
                name="larc", lr=0.2, lr_scaling="linear", warmup_steps=3_127, weight_decay=1.5e-6
            ),
            eval=dict(split="validation", crop_fraction=0.875),
        ),
        epochs300={"steps": 93_835, "ema_decay": 0.99, "optim.lr": 0.3, "optim.weight_decay": 1e-6},
        tiny=TINY_RESNET | {
            "head.features": (16, 8), "predictor.features": (16, 8), "optim.warmup_steps": 1,
        },
    )  # fmt: skip
