"""jssl train --config=configs/lejepa_cifar10.py --config.data.dir=DATA --workdir=runs/lejepa_c10

LeJEPA on CIFAR-10. No settings are published for it; these are those of the authors' Imagenette
example (rbalestr-lab/lejepa MINIMAL.md: four views, lambda .02, AdamW 2e-3 with decay .05,
projector 2048-2048-16) with the ResNet-18, size, batch and views of the other recipes here.
"""

from jssl.recipes import EPOCHS50, TINY_RESNET, mlp, recipe, resnet, simclr_augment


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="lejepa",
            steps=19_531,  # 200 epochs of 50,000
            batch_size=512,
            sigreg_weight=0.02, num_slices=256, invariance_center="all",
            data=dict(source="tfds", name="cifar10", max_side=32, on_device=True),
            model=resnet("resnet18", "cifar"),
            head=mlp(2048, 2048, 16, last="bias"),
            augment=simclr_augment(32, (0.08, 1.0), (0.4, 0.4, 0.4, 0.1), solarize=0.1),
            local=dict(count=2),  # beside the two global views, and like them
            optim=dict(
                name="adamw", lr=2e-3, lr_final=1e-3, warmup_steps=98, weight_decay=0.05,
                no_decay=(),
            ),
            checkpoint=dict(every=2_000),
            eval=dict(every=4_882),
        ),
        epochs50=EPOCHS50,
        tiny=TINY_RESNET | {
            "head.features": (16, 8), "num_slices": 8, "local.count": 1, "optim.warmup_steps": 1,
        },
    )  # fmt: skip
