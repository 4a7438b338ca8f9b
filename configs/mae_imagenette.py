"""jssl train --config=configs/mae_imagenette.py --config.data.dir=DATA --workdir=runs/mae_nette

MAE ViT-S/16 on Imagenette (160 px) at 128 px with the MAE paper's decoder, normalized pixels, mask
.75, betas .9 / .95 and weight decay .05, and lightly's length: batch 256, 800 epochs, AdamW 1.5e-4,
40 epochs of warm-up. No figure is published for these settings: lightly's kNN of .610 (docs,
imagenette_benchmark.py, MAEModel) is a ViT-B/32 at 224 px with one decoder block and plain pixels.
"""

from jssl.recipes import recipe, vit


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="mae",
            steps=29_590,  # 800 epochs of 9,469
            batch_size=256,
            mask_ratio=0.75,
            norm_pix=True,
            data=dict(source="tfds", name="imagenette/160px-v2", max_side=160, on_device=True),
            model=vit("vit_s", 16, 128, positions="sincos", init="xavier"),
            decoder=dict(dim=512, depth=8, heads=16),
            augment=dict(
                mode="fused", size=128, crop_scale=(0.2, 1.0), crop_ratio=(3 / 4, 4 / 3),
                flip_prob=0.5, jitter_prob=0.0, brightness=0.0, contrast=0.0, saturation=0.0,
                hue=0.0,
                gray_prob=0.0, blur_prob=0.0, blur_sigma=(0.1, 2.0), solarize_prob=0.0,
                mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
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
        tiny={
            "steps": 6, "batch_size": 16, "data.source": "digits", "data.split": "train[:3%]",
            "data.max_side": 32, "data.workers": 0, "augment.size": 32, "model.name": "vit_test",
            "model.patch": 8, "model.image_size": 32, "model.dtype": "float32",
            "decoder.dim": 16, "decoder.depth": 1, "decoder.heads": 2,
            "optim.warmup_steps": 1, "checkpoint.every": 2, "eval.split": "test[:5%]",
            "eval.every": 3, "log.every": 1, "log.render_every": 3,
        },
    )  # fmt: skip
