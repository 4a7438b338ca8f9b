"""jssl train --config=configs/moco_v3_imagenet.py --config.data.dir=DATA --workdir=runs/mocov3_in1k

MoCo v3 on ImageNet-1k as published (facebookresearch/moco-v3 CONFIG.md, main_moco.py:65):
ResNet-50, batch 4096, 100 epochs, LARS .6 x batch / 256; linear probe 68.9 % (:epochs300 72.8,
:epochs1000 74.6 %, both at .3). Differences: images are first shrunk to a shorter side of 256
(`data.max_side`), both views pass through BatchNorm together. The ViT: moco_v3_vits_imagenet.py.
"""

from jssl.recipes import TINY_RESNET, mlp, recipe, resnet, simclr_augment


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="moco_v3",
            steps=31_278,  # 100 epochs of 1,281,167
            batch_size=4096,
            temperature=1.0,
            ema_decay=0.99, ema_decay_final=1.0,
            data=dict(source="tfds", name="imagenet2012", max_side=256, workers=16),
            model=resnet("resnet50", "imagenet", init="fan_out", zero_init=True),
            head=mlp(4096, 256, last="bn_plain"),
            predictor=mlp(4096, 256, last="plain"),
            augment=simclr_augment(224, (0.2, 1.0), (0.4, 0.4, 0.2, 0.1), blur=1.0),
            augment_second_view=dict(blur_prob=0.1, solarize_prob=0.2),  # the second view
            optim=dict(
                name="larc", lr=0.6, lr_scaling="linear", warmup_steps=3_127, weight_decay=1e-6
            ),
            eval=dict(split="validation", crop_fraction=0.875),
        ),
        epochs300={"steps": 93_835, "optim.lr": 0.3},
        epochs1000={
            "steps": 312_784, "ema_decay": 0.996, "optim.lr": 0.3, "optim.weight_decay": 1.5e-6,
        },
        tiny=TINY_RESNET | {
            "head.features": (16, 8), "predictor.features": (16, 8), "optim.warmup_steps": 1,
            "temperature": 0.2,
        },
    )  # fmt: skip
