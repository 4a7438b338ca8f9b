"""jssl train --config=configs/barlow_twins_cifar10.py --config.data.dir=DATA --workdir=runs/barlow

Barlow Twins on CIFAR-10 with the settings of lightly's benchmark (docs, cifar10_benchmark.py):
ResNet-18, batch 512, 200 epochs; published there: kNN .819 (k=200, T=0.1, best epoch, original PNG
pixels). :solo has solo-learn's settings, 1,000 epochs: online linear probe 92.10 %.
"""

from jssl.recipes import (
    EPOCHS50,
    LIGHTLY,
    SOLO_LEARN,
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
            method="barlow_twins",
            steps=19_531,  # 200 epochs of 50,000
            batch_size=512,
            loss_scale=1.0, lambda_=5e-3,  # lambda
            data=dict(source="tfds", name="cifar10", max_side=32, on_device=True),
            model=resnet("resnet18", "cifar"),
            head=mlp(2048, 2048, last="bias"),
            augment=simclr_augment(32, (0.08, 1.0), (0.4, 0.4, 0.2, 0.1)),
            augment_second_view=dict(solarize_prob=0.2),  # the second view
            optim=LIGHTLY,
            checkpoint=dict(every=2_000),
            eval=dict(every=4_882),
        ),
        epochs50=EPOCHS50,
        solo=SOLO_LEARN | {
            "loss_scale": 0.1, "lambda_": 0.0051, "head.features": (2048, 2048, 2048),
            "optim.lr": 0.3, "optim.weight_decay": 1e-4,
        },
        tiny=TINY_RESNET | {"head.features": (16, 8)},
    )  # fmt: skip
