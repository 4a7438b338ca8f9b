"""jssl train --config=configs/ijepa_imagenette.py --config.data.dir=DATA --workdir=runs/ijepa_nette

I-JEPA on Imagenette (160 px) at 128 px: ViT-S/16, batch 256, 800 epochs, with the authors' settings
for ImageNet (facebookresearch/ijepa configs: four targets of .15 to .2, context of .85 to 1, AdamW
1e-3 at batch 2,048 from a warm-up of 40 epochs, decay .04 to .4, average .996 to 1). Their context
is cut to the batch's smallest; here to .3 of the patches. stable-pretraining reports kNN .332 after
200 epochs.
"""

from jssl.recipes import TINY_VIT, crop_and_flip, recipe, vit


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="ijepa",
            steps=29_590,  # 800 epochs of 9,469
            batch_size=256,
            num_targets=4, target_area=(0.15, 0.2), target_aspect=(0.75, 1.5),
            context_area=(0.85, 1.0), context_fraction=0.3, min_context_patches=4,
            ema_decay=0.996, ema_decay_final=1.0,
            data=dict(source="tfds", name="imagenette/160px-v2", max_side=160, on_device=True),
            model=vit("vit_s", 16, 128, positions="sincos", init="normal02")
            | dict(class_token=False, pool="mean"),
            predictor=dict(dim=192, depth=6, heads=6),
            augment=crop_and_flip(128, (0.3, 1.0), flip=0.0),
            optim=dict(
                name="adamw", lr=1.25e-4, lr_scaling="linear", lr_final=1.25e-7, warmup_steps=1_480,
                weight_decay=0.04, weight_decay_final=0.4,
            ),
            checkpoint=dict(every=2_000),
            eval=dict(every=3_700, split="validation"),
            log=dict(render_every=3_700),
        ),
        tiny=TINY_VIT | {
            "predictor.dim": 16, "predictor.depth": 1, "predictor.heads": 2,
            "optim.warmup_steps": 1, "context_fraction": 0.25, "min_context_patches": 1,
        },
    )  # fmt: skip
