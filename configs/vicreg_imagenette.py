"""jssl train --config=configs/vicreg_imagenette.py --config.data.dir=DATA --workdir=runs/vicreg_n

VICReg on Imagenette (160 px) at 128 px with the settings of lightly's benchmark (docs,
imagenette_benchmark.py): ResNet-18, batch 256, 800 epochs of LARS for every parameter, 40 of them
warm-up; published there: kNN .845 (k=200, T=0.1, best epoch), after 200 epochs .763. Differences:
see simclr_imagenette.py.
"""

from jssl.recipes import TINY_RESNET, mlp, recipe, resnet, simclr_augment


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="vicreg",
            steps=29_590,  # 800 epochs of 9,469
            batch_size=256,
            invariance=25.0, variance=25.0, covariance=1.0,
            data=dict(source="tfds", name="imagenette/160px-v2", max_side=160, on_device=True),
            model=resnet("resnet18", "imagenet", init="fan_out"),
            head=mlp(2048, 2048, 2048, last="bias"),
            augment=simclr_augment(128, (0.08, 1.0), (0.4, 0.4, 0.2, 0.1), blur=0.5, solarize=0.1),
            optim=dict(
                name="larc", lr=0.3, lr_scaling="linear", warmup_steps=1_480, weight_decay=1e-4,
                no_decay=(),
            ),
            checkpoint=dict(every=2_000),
            eval=dict(every=3_700, split="validation"),
        ),
        epochs200={"steps": 7_397, "optim.warmup_steps": 740},
        tiny=TINY_RESNET | {"head.features": (16, 8), "optim.warmup_steps": 1},
    )  # fmt: skip
