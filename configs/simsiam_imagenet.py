"""jssl train --config=configs/simsiam_imagenet.py --config.data.dir=DATA --workdir=runs/simsiam_in

SimSiam on ImageNet-1k as published (facebookresearch/simsiam README and main_simsiam.py):
ResNet-50, batch 512, 100 epochs, SGD .05 x batch / 256, constant for the predictor; linear probe
68.1 %. Differences: images are first shrunk to a shorter side of 256 (`data.max_side`), both views
pass through BatchNorm together, the cosine falls each step and not each epoch.
"""

from jssl.recipes import TINY_RESNET, mlp, recipe, resnet, simclr_augment


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="simsiam",
            steps=250_227,  # 100 epochs of 1,281,167
            batch_size=512,
            data=dict(source="tfds", name="imagenet2012", max_side=256, workers=16),
            model=resnet("resnet50", "imagenet", init="fan_out", zero_init=True),
            head=mlp(2048, 2048, 2048, last="bn_plain"),
            predictor=mlp(512, 2048, last="bias"),
            augment=simclr_augment(224, (0.2, 1.0), (0.4, 0.4, 0.4, 0.1), blur=0.5),
            optim=dict(
                name="sgd", lr=0.05, lr_scaling="linear", weight_decay=1e-4, no_decay=(),
                lr_constant=("^predictor",),
            ),
            eval=dict(split="validation", crop_fraction=0.875),
        ),
        tiny=TINY_RESNET | {"head.features": (16, 8), "predictor.features": (16, 8)},
    )  # fmt: skip
