"""jssl train --config=configs/dinov2_continue.py --config.init_from=WEIGHTS \\
    --config.data.path=PHOTOS --workdir=runs/continue

Continues the pretraining of a released DINOv2 ViT-S/14 on a folder of your own images, on one to
eight GPUs: DINO, iBOT, KoLeo and Sinkhorn centering (arXiv 2304.07193). WEIGHTS is a folder of
transformers (`facebook/dinov2-small`) or timm (`vit_small_patch14_dinov2`), on this machine.
Student and teacher start as copies of it; the heads are new, since none were released. Other sizes:
`jssl config --from=WEIGHTS` prints the section `model`. :dinov3 is for DINOv3's ViT-S/16.

No one has published settings for this. They are those of DINOv2's training, but: rate 5e-5 at batch
128 (there 7e-5), 16,384 prototypes (65,536), a teacher that moves faster (.994), a warm-up of a
tenth of the run, in which the heads settle. :gram adds Gram anchoring to the released weights.
"""

from jssl.recipes import TINY_VIT, mlp, recipe, simclr_augment, vit

HEAD = mlp(2048, 2048, 256, last="bias", norm=False, activation="gelu", init="trunc02")


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="ibot",
            steps=20_000,
            batch_size=128,
            out_dim=16_384, shared_head=False, centering="sinkhorn", koleo_weight=0.1,
            temperature=0.1, center_momentum=0.9,
            gram_weight=0.0, gram_start=0, gram_every=0, gram_scale=2,
            teacher_temp_start=0.04, teacher_temp_end=0.07, teacher_temp_warmup_steps=2_000,
            mask_probability=0.5, mask_range=(0.1, 0.5), min_block_patches=4.0,
            ema_decay=0.994, ema_decay_final=1.0,
            data=dict(source="folder", path="", max_side=512, workers=8),
            model=vit("vit_s", 14, 224, drop_path=0.1) | dict(layer_scale=1e-5),
            head=HEAD, patch_head=HEAD,
            augment=simclr_augment(224, (0.32, 1.0), (0.4, 0.4, 0.2, 0.1), blur=1.0),
            augment_second_view=dict(blur_prob=0.1, solarize_prob=0.2),
            local=dict(count=8, size=98, crop_scale=(0.05, 0.32), blur_prob=0.5),
            optim=dict(
                name="adamw", lr=5e-5, lr_final=1e-6, warmup_steps=2_000, layer_decay=0.9,
                lr_factors=(("encoder/patch_embed", 0.2),), weight_decay=0.04,
                weight_decay_final=0.2, clip_norm=3.0, freeze=("^prototypes",), freeze_steps=500,
            ),
            log=dict(render_every=2_000),
            eval=dict(crop_fraction=0.875),
        ),
        gram={"gram_weight": 1.0},
        dinov3={
            "model.patch": 16, "model.positions": "rotary", "model.registers": 4,
            "model.norm_eps": 1e-5, "model.key_bias": False, "model.rope_rescale": 2.0,
            "local.size": 96,
        },
        tiny=TINY_VIT | {
            "head.features": (16, 8), "patch_head.features": (16, 8), "out_dim": 12,
            "gram_weight": 0.1, "gram_start": 2, "gram_every": 2, "teacher_temp_warmup_steps": 3,
            "min_block_patches": 2.0, "model.positions": "rotary", "model.registers": 2,
            "model.key_bias": False, "model.rope_rescale": 2.0, "local.count": 1, "local.size": 16,
            "optim.warmup_steps": 1, "optim.freeze_steps": 1,
        },
    )  # fmt: skip
