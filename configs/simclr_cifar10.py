"""jssl train --config=configs/simclr_cifar10.py --config.data.dir=DATA --workdir=runs/simclr_c10

SimCLR on CIFAR-10 with the settings of lightly's benchmark (docs, cifar10_benchmark.py): ResNet-18,
batch 512, 200 epochs; published there: kNN .848 (k=200, T=0.1, best epoch, original PNG pixels);
:dcl .840, :dclw .824. :solo has solo-learn's settings, 1,000 epochs: online linear probe 90.74 %.
Differences: lightly's backbone has no ReLU after the stem's BatchNorm (its `children()[:-1]` drops
it), both views pass through BatchNorm together, the cosine falls each step and not each epoch.
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
            method="simclr",
            steps=19_531,  # 200 epochs of 50,000
            batch_size=512,
            loss="nt_xent", temperature=0.5,
            data=dict(source="tfds", name="cifar10", max_side=32, on_device=True),
            model=resnet("resnet18", "cifar"),
            head=mlp(512, 128, last="bn"),
            augment=simclr_augment(32, (0.08, 1.0), (0.4, 0.4, 0.4, 0.1)),
            optim=LIGHTLY,
            checkpoint=dict(every=2_000),
            eval=dict(every=4_882),
        ),
        epochs50=EPOCHS50,
        dcl={"loss": "dcl", "temperature": 0.1},
        dclw={"loss": "dclw", "temperature": 0.1},
        solo=SOLO_LEARN | {
            "temperature": 0.2, "head.features": (2048, 256), "head.norm": False,
            "head.last_norm": False, "optim.lr": 0.4, "optim.weight_decay": 1e-5,
            "augment.brightness": 0.8, "augment.contrast": 0.8, "augment.saturation": 0.8,
            "augment.hue": 0.2,
        },
        tiny=TINY_RESNET | {"head.features": (16, 8)},
    )  # fmt: skip
