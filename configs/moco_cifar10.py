"""jssl train --config=configs/moco_cifar10.py --config.data.dir=DATA --workdir=runs/moco_c10

MoCo v2 on CIFAR-10 with the settings of lightly's benchmark (docs, cifar10_benchmark.py):
ResNet-18, batch 512, 200 epochs, symmetric loss; published there: kNN .847 (k=200, T=0.1, best
epoch, original PNG pixels). There BatchNorm is in 8 parts of 512 images, each view alone; here in
16 parts of both views: as many rows a part. :solo has solo-learn's settings (MoCo v2+), 1,000
epochs: online linear probe 92.94 %; it has a queue for each view, without shuffled BatchNorm; here
one queue holds the keys of both.
"""

from jssl.recipes import (
    EPOCHS50,
    LIGHTLY,
    SOLO_SGD,
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
            method="moco",
            steps=19_531,  # 200 epochs of 50,000
            batch_size=512,
            temperature=0.1, queue_size=8192, symmetric=True, bn_splits=16,
            ema_decay=0.99, ema_decay_final=0.99,
            data=dict(source="tfds", name="cifar10", max_side=32, on_device=True),
            model=resnet("resnet18", "cifar"),
            head=mlp(512, 128, last="bias", norm=False),
            augment=simclr_augment(32, (0.08, 1.0), (0.4, 0.4, 0.4, 0.1)),
            optim=LIGHTLY,
            checkpoint=dict(every=2_000),
            eval=dict(every=4_882),
        ),
        epochs50=EPOCHS50,
        solo=SOLO_SGD | {
            "temperature": 0.2, "queue_size": 65536, "bn_splits": 1, "ema_decay_final": 0.999,
            "head.features": (2048, 256), "optim.lr": 0.3,
            "optim.weight_decay": 1e-4, "optim.no_decay": (),
        },
        tiny=TINY_RESNET | {"head.features": (16, 8), "queue_size": 64, "bn_splits": 2},
    )  # fmt: skip
