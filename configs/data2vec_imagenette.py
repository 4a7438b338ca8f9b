"""jssl train --config=configs/data2vec_imagenette.py --config.data.dir=DATA --workdir=runs/d2v

data2vec on Imagenette (160 px) at 128 px: ViT-S/16, batch 256, 800 epochs, with the settings of the
paper's ViT-B on ImageNet (Baevski et al. 2022, section 4.1: 60 % hidden in blocks, targets of the
last 6 blocks, smooth L1 with beta 2, AdamW 2e-3 at batch 2,048, decay .05); the average's decay is
lower, as there are 37 steps an epoch and not 625. stable-pretraining reports kNN .310 after 200
epochs.
"""

from jssl.recipes import TINY_VIT, crop_and_flip, recipe, vit


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="data2vec",
            steps=29_590,  # 800 epochs of 9,469
            batch_size=256,
            mask_ratio=0.6, min_block_patches=5.0,  # of 64 patches; there 16 of 196
            target_layers=6, beta=2.0, ema_decay=0.998, ema_decay_final=0.998,
            data=dict(source="tfds", name="imagenette/160px-v2", max_side=160, on_device=True),
            model=vit("vit_s", 16, 128, init="beit", drop_path=0.1),
            augment=crop_and_flip(128, (0.08, 1.0), jitter=(0.4, 0.4, 0.4, 0.0)),
            optim=dict(
                name="adamw", lr=2.5e-4, lr_scaling="linear", warmup_steps=1_480, weight_decay=0.05,
                clip_norm=3.0,
            ),
            checkpoint=dict(every=2_000),
            eval=dict(every=3_700, split="validation"),
            log=dict(render_every=3_700),
        ),
        tiny=TINY_VIT | {"target_layers": 1, "min_block_patches": 2.0, "optim.warmup_steps": 1},
    )  # fmt: skip
