"""jssl train --config=configs/nnclr_cifar10.py --config.data.dir=DATA --workdir=runs/nnclr_c10

NNCLR on CIFAR-10 with the settings of lightly's benchmark (docs, cifar10_benchmark.py): ResNet-18,
batch 512, 200 epochs; published there: kNN .815 (k=200, T=0.1, best epoch, original PNG pixels),
with NT-Xent, whose negatives are both views; here with the paper's equation 3. :solo has
solo-learn's settings, 1,000 epochs: online linear probe 91.88 %.
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
            method="nnclr",
            steps=19_531,  # 200 epochs of 50,000
            batch_size=512,
            temperature=0.5, queue_size=8192,
            data=dict(source="tfds", name="cifar10", max_side=32, on_device=True),
            model=resnet("resnet18", "cifar"),
            head=mlp(2048, 256, last="bn"),
            predictor=mlp(4096, 256, last="bias"),
            augment=simclr_augment(32, (0.08, 1.0), (0.4, 0.4, 0.4, 0.1)),
            augment_second_view=dict(solarize_prob=0.0),  # the second view
            optim=LIGHTLY,
            checkpoint=dict(every=2_000),
            eval=dict(every=4_882),
        ),
        epochs50=EPOCHS50,
        solo=SOLO_LEARN | {
            "temperature": 0.2, "queue_size": 65536, "head.features": (2048, 2048, 256),
            "optim.lr": 0.4, "optim.weight_decay": 1e-5, "augment.saturation": 0.2,
            "augment_second_view.solarize_prob": 0.2,
        },
        tiny=TINY_RESNET | {"head.features": (16, 8), "predictor.features": (16, 8),
        "queue_size": 64},
    )  # fmt: skip
