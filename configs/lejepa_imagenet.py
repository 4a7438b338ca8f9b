"""jssl train --config=configs/lejepa_imagenet.py --config.data.dir=DATA --workdir=runs/lejepa_in1k

LeJEPA on ImageNet-1k with the settings of the authors' README (rbalestr-lab/lejepa): AdamW 5e-4,
decay .05, 2 x 224 + 6 local crops, lambda .05, 1,024 slices. It leaves the rest open; the network
(ViT-S/16), batch 512, 100 epochs, one of warm-up, projector and local crops of 96 (there 98) are
those of lightly's benchmark (benchmarks/imagenet/vitb16/lejepa.py), whose linear probe of 64.0 %
was taken before its loss was mended, and whose views differ in the solarization. The authors give
no figure for a ViT-S. Images are first shrunk to a shorter side of 256 (`data.max_side`).
"""

from jssl.recipes import TINY_VIT, mlp, recipe, simclr_augment, vit


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="lejepa",
            steps=250_227,  # 100 epochs of 1,281,167
            batch_size=512,
            sigreg_weight=0.05, num_slices=1024, invariance_center="global",
            data=dict(source="tfds", name="imagenet2012", max_side=256, workers=16),
            model=vit("vit_s", 16, 224, drop_path=0.1),
            head=mlp(2048, 2048, 64, last="bias"),
            augment=simclr_augment(224, (0.3, 1.0), (0.4, 0.4, 0.2, 0.1), blur=0.5, solarize=0.2),
            local=dict(count=6, size=96, crop_scale=(0.05, 0.3)),
            optim=dict(
                name="adamw", lr=5e-4, lr_final=5e-7, warmup_steps=2_502, weight_decay=0.05,
                no_decay=(),
            ),
            eval=dict(split="validation", crop_fraction=0.875),
        ),
        tiny=TINY_VIT | {
            "head.features": (16, 8), "num_slices": 256, "local.count": 1, "local.size": 16,
            "optim.warmup_steps": 1,
        },
    )  # fmt: skip
