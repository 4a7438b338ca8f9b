"""jssl train --config=configs/moco_imagenette.py --config.data.dir=DATA --workdir=runs/moco_nette

MoCo v2 on Imagenette (160 px) at 128 px with the settings of lightly's benchmark (docs,
imagenette_benchmark.py): ResNet-18, batch 256, 800 epochs, symmetric loss, plain BatchNorm;
published there: kNN .874 (k=200, T=0.1, best epoch), after 200 epochs .786. There the keys of one
half of the loss join the queue before the other half; here all do after the step. More differences:
see simclr_imagenette.py.
"""

from jssl.recipes import LIGHTLY, TINY_RESNET, mlp, recipe, resnet, simclr_augment


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="moco",
            steps=29_590,  # 800 epochs of 9,469
            batch_size=256,
            temperature=0.1, queue_size=4096, symmetric=True, bn_splits=1,
            ema_decay=0.99, ema_decay_final=0.99,
            data=dict(source="tfds", name="imagenette/160px-v2", max_side=160, on_device=True),
            model=resnet("resnet18", "imagenet", init="fan_out"),
            head=mlp(2048, 128, last="bias", norm=False),
            augment=simclr_augment(128, (0.08, 1.0), (0.4, 0.4, 0.4, 0.1), blur=0.5),
            optim=LIGHTLY | dict(lr=0.06),
            checkpoint=dict(every=2_000),
            eval=dict(every=3_700, split="validation"),
        ),
        epochs200={"steps": 7_397},
        tiny=TINY_RESNET | {"head.features": (16, 8), "queue_size": 64, "bn_splits": 2},
    )  # fmt: skip
