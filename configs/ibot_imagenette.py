"""jssl train --config=configs/ibot_imagenette.py --config.data.dir=DATA --workdir=runs/ibot_nette

iBOT on Imagenette (160 px) at 128 px: ViT-S/16, batch 256, 800 epochs, six crops of 64, with the
authors' settings for ViT-S on ImageNet (bytedance/ibot: one head of 8,192 outputs for class and
patch tokens, half of the views masked by .1 to .5, teacher .04 to .07, AdamW 5e-4 at 256, decay .04
to .4). stable-pretraining reports kNN .433 after 200 epochs. :v2 is DINOv2's form: Sinkhorn, a head
for patches, KoLeo.
"""

from jssl.recipes import TINY_VIT, mlp, recipe, simclr_augment, vit

HEAD = mlp(2048, 2048, 256, last="bias", norm=False, activation="gelu", init="trunc02")


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="ibot",
            steps=29_590,  # 800 epochs of 9,469
            batch_size=256,
            out_dim=8192, shared_head=True, centering="center", koleo_weight=0.0, temperature=0.1,
            gram_weight=0.0, gram_start=0, gram_every=0, gram_scale=2,
            center_momentum=0.9,
            teacher_temp_start=0.04, teacher_temp_end=0.07, teacher_temp_warmup_steps=1_110,
            mask_probability=0.5, mask_range=(0.1, 0.5), min_block_patches=2.0,
            ema_decay=0.996, ema_decay_final=1.0,
            data=dict(source="tfds", name="imagenette/160px-v2", max_side=160, on_device=True),
            model=vit("vit_s", 16, 128, drop_path=0.1),
            head=HEAD,
            patch_head=HEAD,  # where heads are not tied
            augment=simclr_augment(128, (0.25, 1.0), (0.4, 0.4, 0.2, 0.1), blur=1.0),
            augment_second_view=dict(blur_prob=0.1, solarize_prob=0.2),  # the second view
            local=dict(count=6, size=64, crop_scale=(0.05, 0.25), blur_prob=0.5),
            optim=dict(
                name="adamw", lr=5e-4, lr_scaling="linear", lr_final=1e-6, warmup_steps=370,
                weight_decay=0.04, weight_decay_final=0.4, clip_norm_per_tensor=3.0,
                freeze=("^prototypes",), freeze_steps=37,
            ),
            checkpoint=dict(every=2_000),
            eval=dict(every=3_700, split="validation"),
            log=dict(render_every=3_700),
        ),
        v2={"shared_head": False, "centering": "sinkhorn", "koleo_weight": 0.1},
        tiny=TINY_VIT | {
            "head.features": (16, 8), "patch_head.features": (16, 8), "out_dim": 12,
            "shared_head": False, "koleo_weight": 0.1, "centering": "sinkhorn",
            "gram_weight": 0.1, "gram_start": 2, "gram_every": 2,
            "teacher_temp_warmup_steps": 3,
            "local.count": 1, "local.size": 16, "optim.warmup_steps": 1, "optim.freeze_steps": 1,
        },
    )  # fmt: skip
