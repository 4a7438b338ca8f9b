"""jssl train --config=configs/simclr_imagenette.py --config.data.dir=DATA --workdir=runs/simclr_n

SimCLR on Imagenette (160 px) at 128 px with the settings of lightly's benchmark (docs,
imagenette_benchmark.py): ResNet-18, batch 256, 800 epochs; published there: kNN .889 (k=200, T=0.1,
best epoch), after 200 epochs .835; :dcl .861, :dclw .865. Differences, in all Imagenette recipes of
lightly's settings: the views pass through BatchNorm together and not one by one, the cosine falls
each step and not each epoch.
"""

from jssl.recipes import LIGHTLY, TINY_RESNET, mlp, recipe, resnet, simclr_augment


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="simclr",
            steps=29_590,  # 800 epochs of 9,469
            batch_size=256,
            loss="nt_xent", temperature=0.5,
            data=dict(source="tfds", name="imagenette/160px-v2", max_side=160, on_device=True),
            model=resnet("resnet18", "imagenet", init="fan_out"),
            head=mlp(512, 128, last="bn"),
            augment=simclr_augment(128, (0.08, 1.0), (0.4, 0.4, 0.4, 0.1), blur=0.5),
            optim=LIGHTLY | dict(lr=0.06),
            checkpoint=dict(every=2_000),
            eval=dict(every=3_700, split="validation"),
        ),
        epochs200={"steps": 7_397},
        dcl={"loss": "dcl", "temperature": 0.1},
        dclw={"loss": "dclw", "temperature": 0.1},
        tiny=TINY_RESNET | {"head.features": (16, 8)},
    )  # fmt: skip
