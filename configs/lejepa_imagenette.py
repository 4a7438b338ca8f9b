"""jssl train --config=configs/lejepa_imagenette.py --config.data.dir=DATA --workdir=runs/lejepa_n

LeJEPA on Imagenette (160 px) as in the authors' example (rbalestr-lab/lejepa MINIMAL.md): ViT-S/8,
four views of 128 px, batch 256, 800 epochs, AdamW 2e-3 to 1e-3, decay .05 of every parameter;
published there: online linear probe 90.7 %, of a Dense layer of 512 between class token and
projector, which is left out here. More differences: the first two views and the other two pass
through the projector's BatchNorm apart, the blur is 13 pixels wide and not 7.
"""

from jssl.recipes import TINY_VIT, mlp, recipe, simclr_augment, vit


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="lejepa",
            steps=29_590,  # 800 epochs of 9,469
            batch_size=256,
            sigreg_weight=0.02, num_slices=256, invariance_center="all",
            data=dict(source="tfds", name="imagenette/160px-v2", max_side=160, on_device=True),
            model=vit("vit_s", 8, 128, drop_path=0.1),
            head=mlp(2048, 2048, 16, last="bias"),
            # Solarize .1: RandomApply of .2 around RandomSolarize, whose own probability is .5.
            augment=simclr_augment(128, (0.08, 1.0), (0.8, 0.8, 0.8, 0.2), blur=0.5, solarize=0.1),
            local=dict(count=2),  # beside the two global views, and like them
            optim=dict(
                name="adamw", lr=2e-3, lr_final=1e-3, warmup_steps=37, weight_decay=0.05,
                no_decay=(),
            ),
            checkpoint=dict(every=2_000),
            eval=dict(every=3_700, split="validation"),
        ),
        tiny=TINY_VIT | {
            "head.features": (16, 8), "num_slices": 8, "local.count": 1, "optim.warmup_steps": 1,
        },
    )  # fmt: skip
