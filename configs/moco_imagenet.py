"""jssl train --config=configs/moco_imagenet.py --config.data.dir=DATA --workdir=runs/moco_in1k

MoCo v2 on ImageNet-1k as published (facebookresearch/moco README and main_moco.py): ResNet-50,
batch 256, 200 epochs, SGD .03, queue 65,536, BatchNorm in 8 parts with shuffled keys; linear probe
67.5 % (:epochs800 71.1 %). Differences: images are first shrunk to a shorter side of 256
(`data.max_side`), the cosine falls each step and not each epoch.
"""

from jssl.recipes import TINY_RESNET, mlp, recipe, resnet, simclr_augment


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="moco",
            steps=1_000_911,  # 200 epochs of 1,281,167
            batch_size=256,
            temperature=0.2, queue_size=65536, symmetric=False, bn_splits=8,
            ema_decay=0.999, ema_decay_final=0.999,
            data=dict(source="tfds", name="imagenet2012", max_side=256, workers=16),
            model=resnet("resnet50", "imagenet", init="fan_out"),
            head=mlp(2048, 128, last="bias", norm=False),
            augment=simclr_augment(224, (0.2, 1.0), (0.4, 0.4, 0.4, 0.1), blur=0.5),
            optim=dict(name="sgd", lr=0.03, lr_scaling="linear", weight_decay=1e-4, no_decay=()),
            eval=dict(split="validation", crop_fraction=0.875),
        ),
        epochs800={"steps": 4_003_646},
        tiny=TINY_RESNET | {
            "head.features": (16, 8), "queue_size": 64, "bn_splits": 2, "temperature": 0.1,
            "ema_decay": 0.9,
            "ema_decay_final": 0.9,
        },
    )  # fmt: skip
