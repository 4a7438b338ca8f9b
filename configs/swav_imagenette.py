"""jssl train --config=configs/swav_imagenette.py --config.data.dir=DATA --workdir=runs/swav_nette

SwAV on Imagenette (160 px) at 128 px with the settings of lightly's benchmark (docs,
imagenette_benchmark.py): ResNet-18, batch 256, 800 epochs of Adam, six crops of 64; published
there: kNN .902 (k=200, T=0.1, best epoch), after 200 epochs .861. :queue has its queue of 384 from
epoch 15 and prototypes at rest in the first epoch: .890. Its decay of 1e-6, and the bias of its
prototypes, are left out. More differences: see simclr_imagenette.py.
"""

from jssl.recipes import TINY_RESNET, mlp, recipe, resnet, simclr_augment


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="swav",
            steps=29_590,  # 800 epochs of 9,469
            batch_size=256,
            num_prototypes=3000, temperature=0.1, epsilon=0.05, sinkhorn_iterations=3,
            queue_size=0, queue_start=0,
            data=dict(source="tfds", name="imagenette/160px-v2", max_side=160, on_device=True),
            model=resnet("resnet18", "imagenet", init="fan_out"),
            head=mlp(2048, 128, last="bias"),
            augment=simclr_augment(128, (0.14, 1.0), (0.4, 0.4, 0.4, 0.1), blur=0.5),
            local=dict(count=6, size=64, crop_scale=(0.05, 0.14)),
            optim=dict(name="adamw", lr=1e-3, lr_scaling="linear"),
            checkpoint=dict(every=2_000),
            eval=dict(every=3_700, split="validation"),
        ),
        epochs200={"steps": 7_397},
        queue={
            "queue_size": 384, "queue_start": 555, "optim.freeze": ("^prototypes",),
            "optim.freeze_steps": 37,
        },
        tiny=TINY_RESNET | {
            "head.features": (16, 8), "num_prototypes": 12, "queue_size": 32, "queue_start": 2,
            "local.count": 1, "local.size": 16, "optim.freeze": ("^prototypes",),
            "optim.freeze_steps": 1,
        },
    )  # fmt: skip
