"""jssl train --config=configs/dino_vits_imagenet.py --config.data.dir=DATA --workdir=runs/dino_vits

DINO on ImageNet-1k as published (facebookresearch/dino main_dino.py, its defaults): ViT-S/16, batch
512, 100 epochs, AdamW 5e-4 x batch / 256, 2 x 224 + 8 x 96 crops; kNN 69.3 %, linear probe 74.0 %.
:epochs300 has its README's longer run at batch 1024: kNN 73.3 %, linear probe 76.0 %. The paper's
linear probe has the class tokens of the last four blocks, this one's only the last. Other
differences: crops are bilinear and not bicubic, images are first shrunk to a shorter side of 256
(`data.max_side`), the teacher's temperature rises each step and not each epoch.
"""

from jssl.recipes import TINY_VIT, mlp, recipe, simclr_augment, vit


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="dino",
            steps=250_227,  # 100 epochs of 1,281,167
            batch_size=512,
            out_dim=65536, norm_last_layer=True, centering="center", temperature=0.1,
            center_momentum=0.9,
            eval_network="teacher",
            teacher_temp_start=0.04, teacher_temp_end=0.04, teacher_temp_warmup_steps=0,
            ema_decay=0.996, ema_decay_final=1.0,
            data=dict(source="tfds", name="imagenet2012", max_side=256, workers=16),
            model=vit("vit_s", 16, 224, drop_path=0.1),
            head=mlp(2048, 2048, 256, last="bias", norm=False, activation="gelu", init="trunc02"),
            augment=simclr_augment(224, (0.4, 1.0), (0.4, 0.4, 0.2, 0.1), blur=1.0),
            augment_second_view=dict(blur_prob=0.1, solarize_prob=0.2),  # the second view
            local=dict(count=8, size=96, crop_scale=(0.05, 0.4), blur_prob=0.5),
            optim=dict(
                name="adamw", lr=5e-4, lr_final=5e-7, lr_scaling="linear", warmup_steps=25_022,
                weight_decay=0.04, weight_decay_final=0.4, no_decay=("bias$", r"norm\d?/scale$"),
                clip_norm_per_tensor=3.0, freeze=("^prototypes",), freeze_steps=2_502,
            ),
            eval=dict(split="validation", crop_fraction=0.875),
        ),
        epochs300={
            "steps": 375_341, "batch_size": 1024, "norm_last_layer": False,
            "teacher_temp_end": 0.07,
            "teacher_temp_warmup_steps": 37_534, "optim.lr_final": 2.5e-7,
            "optim.warmup_steps": 12_511,
            "optim.freeze_steps": 1_251,
        },
        tiny=TINY_VIT | {
            "head.features": (16, 8), "out_dim": 12, "teacher_temp_warmup_steps": 3,
            "teacher_temp_end": 0.07,
            "local.count": 1, "local.size": 16, "optim.warmup_steps": 1, "optim.freeze_steps": 1,
            "centering": "sinkhorn",  # in so few steps, the center only makes the loss rise
        },
    )  # fmt: skip
