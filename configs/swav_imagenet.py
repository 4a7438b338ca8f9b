"""jssl train --config=configs/swav_imagenet.py --config.data.dir=DATA --workdir=runs/swav_in1k

SwAV on ImageNet-1k as published (facebookresearch/swav scripts/swav_200ep_bs256_pretrain.sh):
ResNet-50, batch 256, 200 epochs, SGD .6 under LARC, 2 x 224 + 6 x 96 crops, queue of 3,840 from
epoch 15; linear probe 72.7 %. :large has its settings for batch 4096, 800 epochs: 75.3 %.
Differences: images are first shrunk to a shorter side of 256 (`data.max_side`); of :large, the
warm-up starts at 0 and not at .3, and BatchNorm sees the whole batch and not 512 images of it.
"""

from jssl.recipes import IMAGENET, TINY_RESNET, mlp, recipe, resnet, simclr_augment


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="swav",
            steps=1_000_911,  # 200 epochs of 1,281,167
            batch_size=256,
            num_prototypes=3000, temperature=0.1, epsilon=0.05, sinkhorn_iterations=3,
            queue_size=3840, queue_start=75_068,
            data=dict(source="tfds", name="imagenet2012", max_side=256, workers=16),
            model=resnet("resnet50", "imagenet", init="fan_out"),
            head=mlp(2048, 128, last="bias"),
            augment=simclr_augment(
                224, (0.14, 1.0), (0.8, 0.8, 0.8, 0.2), blur=0.5,
                pixels=IMAGENET | dict(std=(0.228, 0.224, 0.225)),  # .228, as there
            ),
            local=dict(count=6, size=96, crop_scale=(0.05, 0.14)),
            optim=dict(
                name="larc", lr=0.6, lr_final=6e-4, weight_decay=1e-6, no_decay=(),
                freeze=("^prototypes",), freeze_steps=5_005,
            ),
            eval=dict(split="validation", crop_fraction=0.875),
        ),
        large={
            "steps": 250_227, "batch_size": 4096, "queue_size": 0, "queue_start": 0,
            "optim.lr": 4.8,
            "optim.lr_final": 4.8e-3, "optim.warmup_steps": 3_127, "optim.freeze_steps": 313,
        },
        tiny=TINY_RESNET | {
            "head.features": (16, 8), "num_prototypes": 12, "queue_size": 32, "queue_start": 2,
            "local.count": 1, "local.size": 16, "optim.freeze_steps": 1,
        },
    )  # fmt: skip
