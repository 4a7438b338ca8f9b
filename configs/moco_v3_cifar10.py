"""jssl train --config=configs/moco_v3_cifar10.py --config.data.dir=DATA --workdir=runs/mocov3_c10

MoCo v3 on CIFAR-10 with the settings of solo-learn's shell script (scripts/pretrain/cifar, before
its YAML files, which have another augmentation and clip LARS): ResNet-18, batch 256, 1,000 epochs;
published there: online linear probe 93.10 %.
"""

from jssl.recipes import (
    CIFAR,
    EPOCHS50,
    SOLO_OPTIM,
    TINY_RESNET,
    mlp,
    recipe,
    resnet,
    simclr_augment,
)


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="moco_v3",
            steps=195_000,  # 1,000 epochs of 195 batches
            batch_size=256,
            temperature=0.2,
            ema_decay=0.99, ema_decay_final=1.0,
            data=dict(source="tfds", name="cifar10", max_side=32, on_device=True),
            model=resnet("resnet18", "cifar", init="fan_out"),
            head=mlp(4096, 256, last="bn_plain"),
            predictor=mlp(4096, 256, last="plain"),
            augment=simclr_augment(32, (0.2, 1.0), (0.4, 0.4, 0.4, 0.1), blur=1.0, pixels=CIFAR),
            augment_second_view=dict(blur_prob=0.1, solarize_prob=0.2),  # the second view
            optim=SOLO_OPTIM | dict(lr=0.3, weight_decay=1e-6, trust_clip=False),
            checkpoint=dict(every=2_000),
            eval=dict(every=9_750),
        ),
        epochs50=EPOCHS50 | {"optim.warmup_steps": 977},
        tiny=TINY_RESNET | {
            "head.features": (16, 8), "predictor.features": (16, 8), "optim.warmup_steps": 1,
        },
    )  # fmt: skip
