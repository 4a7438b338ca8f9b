"""jssl train --config=configs/beit_imagenette.py --config.data.dir=DATA --workdir=runs/beit_nette

BEiT on Imagenette (160 px) at 128 px: ViT-S/16, batch 256, 800 epochs, with the paper's settings
for ViT-B on ImageNet (Bao et al. 2022, section 3.1 and appendix: 40 % hidden in blocks, AdamW
1.5e-3 at batch 2,048, decay .05, clip 3). Its tokens are DALL-E's, 8,192 of them; here 1,024 codes
of patches are learned in the first two epochs. stable-pretraining reports kNN .220 after 200
epochs.
"""

from jssl.recipes import TINY_VIT, crop_and_flip, recipe, vit


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="beit",
            steps=29_590,  # 800 epochs of 9,469
            batch_size=256,
            mask_ratio=0.4, min_block_patches=5.0,  # of 64 patches; there 16 of 196
            num_codes=1024, tokenizer_steps=74, tokenizer_decay=0.9,
            data=dict(source="tfds", name="imagenette/160px-v2", max_side=160, on_device=True),
            model=vit("vit_s", 16, 128, init="beit", drop_path=0.1),
            augment=crop_and_flip(128, (0.08, 1.0), jitter=(0.4, 0.4, 0.4, 0.0)),
            optim=dict(
                name="adamw", lr=1.9e-4, lr_scaling="linear", lr_final=1.25e-6, warmup_steps=370,
                weight_decay=0.05, clip_norm=3.0, freeze=("",), freeze_steps=74,
            ),
            checkpoint=dict(every=2_000),
            eval=dict(every=3_700, split="validation"),
            log=dict(render_every=3_700),
        ),
        tiny=TINY_VIT | {
            "num_codes": 8, "min_block_patches": 2.0, "tokenizer_steps": 1, "optim.freeze_steps": 1,
            "optim.warmup_steps": 1,
        },
    )  # fmt: skip
