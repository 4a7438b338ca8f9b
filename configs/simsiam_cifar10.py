"""jssl train --config=configs/simsiam_cifar10.py --config.data.dir=DATA --workdir=runs/simsiam_c10

SimSiam on CIFAR-10 with the settings of lightly's benchmark (docs, cifar10_benchmark.py):
ResNet-18, batch 512, 200 epochs, rate .06 whatever the batch; published there: kNN .764 (k=200,
T=0.1, best epoch, original PNG pixels; .904 after 800 epochs). :solo has solo-learn's settings,
1,000 epochs of SGD with a constant rate for the predictor: online linear probe 90.51 %.
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
            method="simsiam",
            steps=19_531,  # 200 epochs of 50,000
            batch_size=512,
            data=dict(source="tfds", name="cifar10", max_side=32, on_device=True),
            model=resnet("resnet18", "cifar"),
            head=mlp(2048, 2048, last="bn"),
            predictor=mlp(512, 2048, last="bias"),
            augment=simclr_augment(32, (0.2, 1.0), (0.4, 0.4, 0.4, 0.1)),
            optim=LIGHTLY | dict(lr=0.06, lr_scaling="none"),
            checkpoint=dict(every=2_000),
            eval=dict(every=4_882),
        ),
        epochs50=EPOCHS50,
        solo=SOLO_SGD | {
            "head.features": (2048, 2048, 2048), "head.last_scale": False, "head.last_bias": False,
            "model.zero_init_residual": True, "augment.crop_scale": (0.08, 1.0),
            "optim.lr": 0.5, "optim.weight_decay": 1e-5, "optim.no_decay": (),
            "optim.lr_constant": ("^predictor",),
        },
        tiny=TINY_RESNET | {"head.features": (16, 8), "predictor.features": (16, 8)},
    )  # fmt: skip
