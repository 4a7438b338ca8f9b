"""jssl train --config=configs/nnclr_imagenette.py --config.data.dir=DATA --workdir=runs/nnclr_nette

NNCLR on Imagenette (160 px) at 128 px with the settings of lightly's benchmark (docs,
imagenette_benchmark.py): ResNet-18, batch 256, 800 epochs; published there: kNN .884 (k=200, T=0.1,
best epoch), after 200 epochs .809, with NT-Xent, whose negatives are both views; here with the
paper's equation 3. More differences: see simclr_imagenette.py.
"""

from jssl.recipes import LIGHTLY, TINY_RESNET, mlp, recipe, resnet, simclr_augment


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="nnclr",
            steps=29_590,  # 800 epochs of 9,469
            batch_size=256,
            temperature=0.5, queue_size=4096,
            data=dict(source="tfds", name="imagenette/160px-v2", max_side=160, on_device=True),
            model=resnet("resnet18", "imagenet", init="fan_out"),
            head=mlp(2048, 2048, 256, last="bn"),
            predictor=mlp(4096, 256, last="bias"),
            augment=simclr_augment(128, (0.08, 1.0), (0.4, 0.4, 0.4, 0.1), blur=0.5),
            optim=LIGHTLY | dict(lr=0.06),
            checkpoint=dict(every=2_000),
            eval=dict(every=3_700, split="validation"),
        ),
        epochs200={"steps": 7_397},
        tiny=TINY_RESNET | {"head.features": (16, 8), "predictor.features": (16, 8),
        "queue_size": 64},
    )  # fmt: skip
