"""jssl train --config=configs/cmae_vitb_imagenet.py --config.data.dir=DATA --workdir=runs/cmae_vitb

CMAE ViT-B/16 on ImageNet-1k with the settings of its code (ZhichengHuang/CMAE,
configs/pre-training/cmae/cmae_vit-base-p16_16xb256-coslr-300e_in1k.py): batch 4096, 300 epochs,
AdamW 1.5e-4 x batch / 256, 40 epochs of warm-up, mask .65 (.75 in the paper), shifts of up to 31
px, momentum .996; fine-tuned 83.6 % (84.7 after 1,600 epochs; MAE: 82.9 and 83.6).
"""

from jssl.recipes import TINY_VIT, crop_and_flip, mlp, recipe, vit

HEAD = mlp(1536, 256, last="plain")


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="cmae",
            steps=93_835,  # 300 epochs of 1,281,167
            batch_size=4096,
            mask_ratio=0.65, temperature=0.07, shift=31, contrastive_weight=1.0,
            ema_decay=0.996, ema_decay_final=0.996,
            data=dict(source="tfds", name="imagenet2012", max_side=256, workers=16),
            model=vit("vit_b", 16, 224, positions="sincos", init="xavier"),
            decoder=dict(dim=512, depth=8, heads=16),
            feature_decoder=dict(dim=512, depth=2, heads=16),
            head=HEAD, predictor=HEAD,
            augment=crop_and_flip(224, (0.2, 1.0)),
            augment_second_view=dict(
                jitter_prob=0.8, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1,
                gray_prob=0.2, blur_prob=0.5,
            ),
            optim=dict(
                name="adamw", lr=1.5e-4, lr_scaling="linear", warmup_steps=12_511, b2=0.95,
                weight_decay=0.05,
            ),
            eval=dict(split="validation", crop_fraction=0.875),
            finetune=dict(batch_size=1024, lr=5e-4, layer_decay=0.65, pool="mean"),
        ),
        tiny=TINY_VIT | {
            "shift": 4, "decoder.dim": 16, "decoder.depth": 1, "decoder.heads": 2,
            "feature_decoder.dim": 16, "feature_decoder.depth": 1, "feature_decoder.heads": 2,
            "head.features": (16, 8), "predictor.features": (16, 8), "optim.warmup_steps": 1,
        },
    )  # fmt: skip
