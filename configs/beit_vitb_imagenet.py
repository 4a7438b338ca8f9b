"""jssl train --config=configs/beit_vitb_imagenet.py --config.data.dir=DATA --workdir=runs/beit_vitb

BEiT ViT-B/16 on ImageNet-1k as published (Bao et al. 2022, tables 12 and 13; microsoft/unilm beit
README): batch 2048, 800 epochs, AdamW 1.5e-3 to 1e-5, decay .05, 10 epochs of warm-up, clip 3, drop
path .1, 75 of 196 patches hidden in blocks of 16 or more; fine-tuned 83.2 %, with DALL-E's tokens.
Here the 8,192 tokens are codes of normalized patches, learned in the first epoch, in which nothing
else is: the figure may not carry over. Other differences: learned positions and no relative ones
(there a bias that all blocks share, in fine-tuning one each), no layer scale, jitter follows the
crop, crops are bilinear and not bicubic, images are first shrunk to a shorter side of 256
(`data.max_side`).
"""

from jssl.recipes import TINY_VIT, crop_and_flip, recipe, vit


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="beit",
            steps=500_455,  # 800 epochs of 1,281,167
            batch_size=2048,
            mask_ratio=75 / 196, min_block_patches=16.0,
            num_codes=8192, tokenizer_steps=625, tokenizer_decay=0.9,  # not published
            data=dict(source="tfds", name="imagenet2012", max_side=256, workers=16),
            model=vit("vit_b", 16, 224, init="beit", drop_path=0.1),
            augment=crop_and_flip(224, (0.08, 1.0), jitter=(0.4, 0.4, 0.4, 0.0)),
            optim=dict(
                name="adamw", lr=1.875e-4, lr_scaling="linear", lr_final=1.25e-6,
                warmup_steps=6_255, weight_decay=0.05,
                no_decay=("bias$", "scale$", "cls_token$", "pos_embed$"), clip_norm=3.0,
                freeze=("",), freeze_steps=625,
            ),
            eval=dict(split="validation", crop_fraction=0.875),
            finetune=dict(  # the paper tries 2e-3 to 5e-3 at 1,024; the README has 4e-3
                epochs=100, batch_size=1024, lr=1e-3, layer_decay=0.65, warmup_fraction=0.2,
                drop_path=0.1,
                pool="mean",
            ),
        ),
        tiny=TINY_VIT | {
            "num_codes": 8, "min_block_patches": 2.0, "tokenizer_steps": 1, "optim.freeze_steps": 1,
            "optim.warmup_steps": 1,
        },
    )  # fmt: skip
