"""jssl train --config=configs/byol_cifar10.py --config.data.dir=DATA --workdir=runs/byol_c10

BYOL on CIFAR-10 with the settings of lightly's benchmark (docs, cifar10_benchmark.py): ResNet-18,
batch 512, 200 epochs; published there: kNN .868 (k=200, T=0.1, best epoch, original PNG pixels).
:solo has solo-learn's settings, 1,000 epochs: online linear probe 92.58 %. lightly's loss is a
quarter of the paper's, which is used here: with a quarter of its rate and four times its decay, the
steps are the same.
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
            method="byol",
            steps=19_531,  # 200 epochs of 50,000
            batch_size=512,
            ema_decay=0.99, ema_decay_final=0.99,
            data=dict(source="tfds", name="cifar10", max_side=32, on_device=True),
            model=resnet("resnet18", "cifar"),
            head=mlp(1024, 256, last="bias"),
            predictor=mlp(1024, 256, last="bias"),
            augment=simclr_augment(32, (0.08, 1.0), (0.4, 0.4, 0.2, 0.1)),
            augment_second_view=dict(solarize_prob=0.2),  # the second view
            optim=LIGHTLY | dict(lr=0.03, weight_decay=2e-3),
            checkpoint=dict(every=2_000),
            eval=dict(every=4_882),
        ),
        epochs50=EPOCHS50,
        solo=SOLO_LEARN | {
            "ema_decay_final": 1.0, "head.features": (4096, 256), "predictor.features": (4096, 256),
            "optim.lr": 1.0, "optim.weight_decay": 1e-5,
        },
        tiny=TINY_RESNET | {"head.features": (16, 8), "predictor.features": (16, 8)},
    )  # fmt: skip
