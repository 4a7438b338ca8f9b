"""jssl train --config=configs/barlow_twins_imagenette.py --config.data.dir=DATA --workdir=runs/bt_n

Barlow Twins on Imagenette (160 px) at 128 px with the settings of lightly's benchmark (docs,
imagenette_benchmark.py): ResNet-18, batch 256, 800 epochs; published there: kNN .852 (k=200, T=0.1,
best epoch), after 200 epochs .651. Differences: see simclr_imagenette.py.
"""

from jssl.recipes import LIGHTLY, TINY_RESNET, mlp, recipe, resnet, simclr_augment


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="barlow_twins",
            steps=29_590,  # 800 epochs of 9,469
            batch_size=256,
            loss_scale=1.0, lambda_=5e-3,  # lambda
            data=dict(source="tfds", name="imagenette/160px-v2", max_side=160, on_device=True),
            model=resnet("resnet18", "imagenet", init="fan_out"),
            head=mlp(2048, 2048, 2048, last="bias"),
            augment=simclr_augment(128, (0.08, 1.0), (0.4, 0.4, 0.2, 0.1), blur=1.0),
            augment_second_view=dict(blur_prob=0.1, solarize_prob=0.2),  # the second view
            optim=LIGHTLY | dict(lr=0.06),
            checkpoint=dict(every=2_000),
            eval=dict(every=3_700, split="validation"),
        ),
        epochs200={"steps": 7_397},
        tiny=TINY_RESNET | {"head.features": (16, 8)},
    )  # fmt: skip
