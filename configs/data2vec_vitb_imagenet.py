"""jssl train --config=configs/data2vec_vitb_imagenet.py --config.data.dir=DATA --workdir=runs/d2v_b

data2vec ViT-B/16 on ImageNet-1k as published (facebookresearch/data2vec_vision beit/README.md, its
commands): batch 2048, 800 epochs, AdamW 2e-3 to 1e-5, decay .05, 10 epochs of warm-up, clip 3, drop
path .25, 120 of 196 patches hidden in blocks of 16 or more, targets of the last 6 blocks, beta 2,
average .9998; fine-tuned 84.2 % (Baevski et al. 2022, table 1). The paper's text (section 4.1) has
40 epochs of warm-up, drop path .2, and 20 epochs of warm-up in fine-tuning. Other differences: no
dropout in attention (.05), learned positions and no relative ones (there a bias that all blocks
share, in fine-tuning one each), no layer scale, jitter follows the crop, crops are bilinear and not
bicubic, images are first shrunk to a shorter side of 256 (`data.max_side`).
"""

from jssl.recipes import TINY_VIT, crop_and_flip, recipe, vit


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="data2vec",
            steps=500_455,  # 800 epochs of 1,281,167
            batch_size=2048,
            mask_ratio=120 / 196, min_block_patches=16.0,
            target_layers=6, beta=2.0, ema_decay=0.9998, ema_decay_final=0.9998,
            data=dict(source="tfds", name="imagenet2012", max_side=256, workers=16),
            model=vit("vit_b", 16, 224, init="beit", drop_path=0.25),
            augment=crop_and_flip(224, (0.08, 1.0), jitter=(0.4, 0.4, 0.4, 0.0)),
            optim=dict(
                name="adamw", lr=2.5e-4, lr_scaling="linear", lr_final=1.25e-6,
                warmup_steps=6_255, weight_decay=0.05,
                no_decay=("bias$", "scale$", "cls_token$", "pos_embed$"), clip_norm=3.0,
            ),
            eval=dict(split="validation", crop_fraction=0.875),
            finetune=dict(
                epochs=100, batch_size=1024, lr=1e-3, layer_decay=0.65, weight_decay=0.0,
                warmup_fraction=0.1, drop_path=0.2, pool="mean",
            ),
        ),
        tiny=TINY_VIT | {"target_layers": 1, "min_block_patches": 2.0, "optim.warmup_steps": 1},
    )  # fmt: skip
