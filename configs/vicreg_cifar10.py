"""jssl train --config=configs/vicreg_cifar10.py --config.data.dir=DATA --workdir=runs/vicreg_c10

VICReg on CIFAR-10 with the settings of solo-learn (scripts/pretrain/cifar): ResNet-18, batch 256,
1,000 epochs; published there: online linear probe 92.07 %. Its variance term is the sum of both
views' and not their mean, hence 50 and not 25.
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
            method="vicreg",
            steps=195_000,  # 1,000 epochs of 195 batches
            batch_size=256,
            invariance=25.0, variance=50.0, covariance=1.0,
            data=dict(source="tfds", name="cifar10", max_side=32, on_device=True),
            model=resnet("resnet18", "cifar", init="fan_out"),
            head=mlp(2048, 2048, 2048, last="bias"),
            augment=simclr_augment(
                32, (0.2, 1.0), (0.4, 0.4, 0.2, 0.1), solarize=0.1, pixels=CIFAR
            ),
            optim=SOLO_OPTIM | dict(lr=0.3, weight_decay=1e-4),
            checkpoint=dict(every=2_000),
            eval=dict(every=9_750),
        ),
        epochs50=EPOCHS50 | {"optim.warmup_steps": 977},
        tiny=TINY_RESNET | {"head.features": (16, 8), "optim.warmup_steps": 1},
    )  # fmt: skip
