"""jssl train --config=configs/vicreg_imagenet.py --config.data.dir=DATA --workdir=runs/vicreg_in1k

VICReg on ImageNet-1k as published (facebookresearch/vicreg README and main_vicreg.py): ResNet-50,
batch 2048, 1,000 epochs, LARS .2 x batch / 256; linear probe 73.2 %. :epochs100 has its run at
batch 512 and .3: 68.6 %. Differences: crops are bilinear and not bicubic, images are first shrunk
to a shorter side of 256 (`data.max_side`), both views pass through BatchNorm together.
"""

from jssl.recipes import TINY_RESNET, mlp, recipe, resnet, simclr_augment


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="vicreg",
            steps=625_569,  # 1,000 epochs of 1,281,167
            batch_size=2048,
            invariance=25.0, variance=25.0, covariance=1.0,
            data=dict(source="tfds", name="imagenet2012", max_side=256, workers=16),
            model=resnet("resnet50", "imagenet", init="fan_out", zero_init=True),
            head=mlp(8192, 8192, 8192, last="plain"),
            augment=simclr_augment(224, (0.08, 1.0), (0.4, 0.4, 0.2, 0.1), blur=1.0),
            augment_second_view=dict(blur_prob=0.1, solarize_prob=0.2),  # the second view
            optim=dict(
                name="larc", lr=0.2, lr_final=2e-4, lr_scaling="linear", warmup_steps=6_255,
                weight_decay=1e-6,
            ),
            eval=dict(split="validation", crop_fraction=0.875),
        ),
        epochs100={
            "steps": 250_227, "batch_size": 512, "optim.lr": 0.3, "optim.lr_final": 3e-4,
            "optim.warmup_steps": 25_022,
        },
        tiny=TINY_RESNET | {"head.features": (16, 8), "optim.warmup_steps": 1},
    )  # fmt: skip
