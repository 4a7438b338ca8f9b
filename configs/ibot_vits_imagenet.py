"""jssl train --config=configs/ibot_vits_imagenet.py --config.data.dir=DATA --workdir=runs/ibot_vits

iBOT ViT-S/16 on ImageNet-1k as published (bytedance/ibot README, its command): batch 1024, 800
epochs, AdamW 5e-4 x batch / 256, 2 x 224 + 10 x 96 crops; kNN 75.2 %, linear 77.9 %, fine-tuned
82.3 %. :vitb is ViT-B/16, 400 epochs: 77.1, 79.5, 84.0 %; its arguments are as later work repeats
them (README of SERE, Li et al. 2023), for the authors' args.txt was not at hand; their paper has
the rate 5e-4. Differences: the last layer's scale is fixed (there learned for ViT-S), a block may
be larger than what is to be hidden and is then cut along its rows or columns, the patches' center
is of the places asked and not of all, the temperature rises each step and not each epoch, crops are
bilinear and not bicubic, images are first shrunk to a shorter side of 256 (`data.max_side`). The
linear probe there has the last four class tokens (ViT-B: the class token and the patches' mean);
fine-tuned is the teacher there, the student here, and its rate is one of the four that the paper
tries.
"""

from jssl.recipes import TINY_VIT, mlp, recipe, simclr_augment, vit

HEAD = mlp(2048, 2048, 256, last="bias", norm=False, activation="gelu", init="trunc02")


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="ibot", steps=1_000_911, batch_size=1024,  # 800 epochs of 1,281,167
            out_dim=8192, shared_head=True, centering="center", koleo_weight=0.0, temperature=0.1,
            gram_weight=0.0, gram_start=0, gram_every=0, gram_scale=2,
            center_momentum=0.9,
            teacher_temp_start=0.04, teacher_temp_end=0.07, teacher_temp_warmup_steps=37_534,
            mask_probability=0.5, mask_range=(0.1, 0.5), min_block_patches=16.0, ema_decay=0.996,
            ema_decay_final=1.0,
            data=dict(source="tfds", name="imagenet2012", max_side=256, workers=16),
            model=vit("vit_s", 16, 224, drop_path=0.1), head=HEAD, patch_head=HEAD,
            augment=simclr_augment(224, (0.25, 1.0), (0.4, 0.4, 0.2, 0.1), blur=1.0),
            augment_second_view=dict(blur_prob=0.1, solarize_prob=0.2),  # the second view
            local=dict(count=10, size=96, crop_scale=(0.05, 0.25), blur_prob=0.5),
            optim=dict(
                name="adamw", lr=5e-4, lr_scaling="linear", lr_final=2.5e-7, warmup_steps=12_511,
                weight_decay=0.04, weight_decay_final=0.4, clip_norm_per_tensor=3.0,
                freeze=("^prototypes",), freeze_steps=1_251,
            ),
            eval=dict(split="validation", crop_fraction=0.875),
            finetune=dict(epochs=200, batch_size=1024, lr=2.5e-4, warmup_fraction=0.1),
        ),
        vitb={
            "steps": 500_455, "model.name": "vit_b", "teacher_temp_warmup_steps": 62_556,
            "optim.lr": 7.5e-4,
            "optim.lr_final": 5e-7, "optim.clip_norm_per_tensor": 0.3, "optim.freeze_steps": 3_753,
            "augment.crop_scale": (0.32, 1.0), "local.crop_scale": (0.05, 0.32),
            "finetune.epochs": 100, "finetune.layer_decay": 0.65, "finetune.warmup_fraction": 0.2,
        },
        tiny=TINY_VIT | {
            "head.features": (16, 8), "patch_head.features": (16, 8), "out_dim": 12,
            "shared_head": False, "koleo_weight": 0.1, "centering": "sinkhorn",
            "gram_weight": 0.1, "gram_start": 2, "gram_every": 2,
            "teacher_temp_warmup_steps": 3,
            "min_block_patches": 2.0, "local.count": 1, "local.size": 16, "optim.warmup_steps": 1,
            "optim.freeze_steps": 1,
        },
    )  # fmt: skip
