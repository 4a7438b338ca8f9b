"""jssl train --config=configs/byol_imagenette.py --config.data.dir=DATA --workdir=runs/byol_nette

BYOL on Imagenette (160 px) at 128 px with the settings of lightly's benchmark (docs,
imagenette_benchmark.py): ResNet-18, batch 256, 800 epochs; published there: kNN .887 (k=200, T=0.1,
best epoch), after 200 epochs .705. lightly's loss is a quarter of the paper's, which is used here:
with a quarter of its rate and four times its decay, the steps are the same. More differences: see
simclr_imagenette.py. :deepmind has the authors' settings (deepmind-research, byol/README.md), 1,000
epochs of LARS: online linear probe about 92.3 %, with bicubic crops and brightness that is added.
"""

from jssl.recipes import LIGHTLY, TINY_RESNET, mlp, recipe, resnet, simclr_augment


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="byol",
            steps=29_590,  # 800 epochs of 9,469
            batch_size=256,
            ema_decay=0.99, ema_decay_final=0.99,
            data=dict(source="tfds", name="imagenette/160px-v2", max_side=160, on_device=True),
            model=resnet("resnet18", "imagenet", init="fan_out"),
            head=mlp(4096, 256, last="bias"),
            predictor=mlp(4096, 256, last="bias"),
            augment=simclr_augment(128, (0.08, 1.0), (0.4, 0.4, 0.2, 0.1), blur=1.0)
            | dict(blur_kernel="tenth"),
            augment_second_view=dict(blur_prob=0.1, solarize_prob=0.2),  # the second view
            optim=LIGHTLY | dict(lr=0.015, weight_decay=2e-3),
            checkpoint=dict(every=2_000),
            eval=dict(every=3_700, split="validation"),
        ),
        epochs200={"steps": 7_397},
        deepmind={
            "steps": 36_988, "ema_decay": 0.996, "ema_decay_final": 1.0, "model.init": "lecun",
            "head.init": "lecun", "head.last_bias": False, "predictor.init": "lecun",
            "predictor.last_bias": False, "optim.name": "larc", "optim.lr": 2.0,
            "optim.warmup_steps": 370, "optim.weight_decay": 1e-6,
            "optim.no_decay": ("bias$", "scale$"),
        },
        tiny=TINY_RESNET | {"head.features": (16, 8), "predictor.features": (16, 8)},
    )  # fmt: skip
