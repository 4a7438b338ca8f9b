"""jssl train --config=configs/mae_vitl_imagenet.py --config.data.dir=DATA --workdir=runs/mae_vitl

MAE ViT-L/16 on ImageNet-1k as published (He et al. 2022, table 8; facebookresearch/mae
PRETRAIN.md): batch 4096, 800 epochs, AdamW 1.5e-4 x batch / 256, betas .9 / .95, weight decay .05,
40 epochs of warm-up, mask .75, normalized pixels; fine-tuned 85.5 % (FINETUNE.md; paper 85.4).
"""

from jssl.recipes import recipe, vit


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="mae",
            steps=250_227,  # 800 epochs of 1,281,167
            batch_size=4096,
            mask_ratio=0.75,
            norm_pix=True,
            data=dict(source="tfds", name="imagenet2012", max_side=256, workers=16),
            model=vit("vit_l", 16, 224, positions="sincos", init="xavier"),
            decoder=dict(dim=512, depth=8, heads=16),
            augment=dict(
                mode="fused", size=224, crop_scale=(0.2, 1.0), crop_ratio=(3 / 4, 4 / 3),
                flip_prob=0.5, jitter_prob=0.0, brightness=0.0, contrast=0.0, saturation=0.0,
                hue=0.0,
                gray_prob=0.0, blur_prob=0.0, blur_sigma=(0.1, 2.0), solarize_prob=0.0,
                mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
            ),
            optim=dict(
                name="adamw", lr=1.5e-4, lr_scaling="linear", warmup_steps=12_511, b2=0.95,
                weight_decay=0.05,
            ),
            eval=dict(split="validation", crop_fraction=0.875),
            finetune=dict(  # FINETUNE.md; warm-up of 5 epochs: main_finetune.py
                batch_size=1024, epochs=50, drop_path=0.2, pool="mean", warmup_fraction=0.1,
            ),
        ),
        tiny={
            "steps": 6, "batch_size": 16, "data.source": "digits", "data.split": "train[:3%]",
            "data.max_side": 32, "data.workers": 0, "augment.size": 32, "model.name": "vit_test",
            "model.patch": 8, "model.image_size": 32, "model.dtype": "float32",
            "decoder.dim": 16, "decoder.depth": 1, "decoder.heads": 2,
            "optim.warmup_steps": 1, "checkpoint.every": 2, "eval.split": "test[:5%]",
            "log.every": 1,
        },
    )  # fmt: skip
