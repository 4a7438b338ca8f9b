"""jssl train --config=configs/mae_continue.py --config.init_from=WEIGHTS \\
    --config.data.path=PHOTOS --workdir=runs/mae_continue

Continues the pretraining of a released MAE ViT-B/16 on a folder of your own images (arXiv
2111.06377). WEIGHTS is a folder of transformers (`facebook/vit-mae-base`, which has the decoder
too) on this machine. Other sizes: `jssl config --from=WEIGHTS` prints the section `model`. The
settings are those of MAE's pretraining with a tenth of its rate and a short warm-up; no one has
published settings for this. The epsilon of transformers' MAE is 1e-12, that of MAE's code 1e-6.
"""

from jssl.recipes import TINY_VIT, crop_and_flip, recipe, vit


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="mae",
            steps=20_000,
            batch_size=256,
            mask_ratio=0.75,
            norm_pix=True,
            data=dict(source="folder", path="", max_side=512, workers=8),
            model=vit("vit_b", 16, 224, positions="sincos", init="xavier") | dict(norm_eps=1e-12),
            decoder=dict(dim=512, depth=8, heads=16),
            augment=crop_and_flip(224, (0.2, 1.0)),
            optim=dict(
                name="adamw", lr=1.5e-5, lr_scaling="linear", warmup_steps=1_000, b2=0.95,
                weight_decay=0.05,
            ),
            log=dict(render_every=2_000),
            eval=dict(crop_fraction=0.875),
            finetune=dict(layer_decay=0.65, pool="mean"),
        ),
        tiny=TINY_VIT | {
            "decoder.dim": 16, "decoder.depth": 1, "decoder.heads": 2, "optim.warmup_steps": 1,
            "model.registers": 2, "model.layer_scale": 0.1,
        },
    )  # fmt: skip
