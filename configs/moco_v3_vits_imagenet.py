"""jssl train --config=configs/moco_v3_vits_imagenet.py --config.data.dir=DATA --workdir=runs/mocov3

MoCo v3 on ImageNet-1k as published (facebookresearch/moco-v3 CONFIG.md, vits.py): ViT-S/16 whose
patch projection is not trained, batch 4096, 300 epochs, AdamW 1.5e-4 x batch / 256, decay .1 of
every parameter, 40 epochs of warm-up; linear probe 73.2 %. Differences: 6 heads of 64 and not 12 of
32, q, k and v are drawn as one matrix, the class token from N(0, .02) and not N(0, 1e-6), both
views pass through the heads' BatchNorm together, images are first shrunk to a shorter side of 256
(`data.max_side`).
"""

from jssl.recipes import TINY_VIT, mlp, recipe, simclr_augment, vit


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="moco_v3",
            steps=93_835,  # 300 epochs of 1,281,167
            batch_size=4096,
            temperature=0.2,
            ema_decay=0.99, ema_decay_final=1.0,
            data=dict(source="tfds", name="imagenet2012", max_side=256, workers=16),
            model=vit("vit_s", 16, 224, positions="sincos", init="xavier"),
            head=mlp(4096, 4096, 256, last="bn_plain"),
            predictor=mlp(4096, 256, last="bn_plain"),
            augment=simclr_augment(224, (0.08, 1.0), (0.4, 0.4, 0.2, 0.1), blur=1.0),
            augment_second_view=dict(blur_prob=0.1, solarize_prob=0.2),  # the second view
            optim=dict(
                name="adamw", lr=1.5e-4, lr_scaling="linear", warmup_steps=12_511,
                weight_decay=0.1, no_decay=(), freeze=("^encoder/patch_embed",), freeze_steps=-1,
            ),
            eval=dict(split="validation", crop_fraction=0.875),
        ),
        tiny=TINY_VIT | {
            "head.features": (16, 8), "predictor.features": (16, 8), "optim.warmup_steps": 1,
        },
    )  # fmt: skip
