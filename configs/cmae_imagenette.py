"""jssl train --config=configs/cmae_imagenette.py --config.data.dir=DATA --workdir=runs/cmae_nette

CMAE ViT-S/16 on Imagenette (160 px) at 128 px: the settings of cmae_vitb_imagenet.py on the scale
of mae_imagenette.py, 800 epochs, with shifts of up to 17 px. No one has published this.
"""

from jssl.recipes import TINY_VIT, crop_and_flip, mlp, recipe, vit

HEAD = mlp(1536, 256, last="plain")


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="cmae",
            steps=29_590,  # 800 epochs of 9,469
            batch_size=256,
            mask_ratio=0.65, temperature=0.07, shift=17, contrastive_weight=1.0,
            ema_decay=0.996, ema_decay_final=0.996,
            data=dict(source="tfds", name="imagenette/160px-v2", max_side=160, on_device=True),
            model=vit("vit_s", 16, 128, positions="sincos", init="xavier"),
            decoder=dict(dim=512, depth=8, heads=16),
            feature_decoder=dict(dim=512, depth=2, heads=16),
            head=HEAD, predictor=HEAD,
            augment=crop_and_flip(128, (0.2, 1.0)),
            augment_second_view=dict(
                jitter_prob=0.8, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1,
                gray_prob=0.2, blur_prob=0.5,
            ),
            optim=dict(
                name="adamw", lr=1.5e-4, lr_scaling="linear", warmup_steps=1_480, b2=0.95,
                weight_decay=0.05,
            ),
            checkpoint=dict(every=2_000),
            eval=dict(every=3_700, split="validation"),
            log=dict(render_every=3_700),
            finetune=dict(pool="mean"),
        ),
        tiny=TINY_VIT | {
            "shift": 4, "decoder.dim": 16, "decoder.depth": 1, "decoder.heads": 2,
            "feature_decoder.dim": 16, "feature_decoder.depth": 1, "feature_decoder.heads": 2,
            "head.features": (16, 8), "predictor.features": (16, 8), "optim.warmup_steps": 1,
            "log.render_every": 3,
        },
    )  # fmt: skip
