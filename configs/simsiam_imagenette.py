"""jssl train --config=configs/simsiam_imagenette.py --config.data.dir=DATA --workdir=runs/simsiam_n

SimSiam on Imagenette (160 px) at 128 px with the settings of lightly's benchmark (docs,
imagenette_benchmark.py): ResNet-18, batch 256, 800 epochs, rate .06 whatever the batch; published
there: kNN .872 (k=200, T=0.1, best epoch), after 200 epochs .752. Differences: see
simclr_imagenette.py.
"""

from jssl.recipes import LIGHTLY, TINY_RESNET, mlp, recipe, resnet, simclr_augment


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="simsiam",
            steps=29_590,  # 800 epochs of 9,469
            batch_size=256,
            data=dict(source="tfds", name="imagenette/160px-v2", max_side=160, on_device=True),
            model=resnet("resnet18", "imagenet", init="fan_out"),
            head=mlp(2048, 2048, 2048, last="bn_plain"),
            predictor=mlp(512, 2048, last="bias"),
            augment=simclr_augment(128, (0.2, 1.0), (0.4, 0.4, 0.4, 0.1), blur=0.5),
            optim=LIGHTLY | dict(lr=0.06, lr_scaling="none"),
            checkpoint=dict(every=2_000),
            eval=dict(every=3_700, split="validation"),
        ),
        epochs200={"steps": 7_397},
        tiny=TINY_RESNET | {"head.features": (16, 8), "predictor.features": (16, 8)},
    )  # fmt: skip
