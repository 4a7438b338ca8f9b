"""jssl train --config=configs/deepcluster_v2_imagenet.py --config.data.dir=DATA --workdir=runs/a

DeepCluster v2 on ImageNet-1k as published (facebookresearch/swav
scripts/deepclusterv2_400ep_pretrain.sh): ResNet-50, batch 4096, 400 epochs, SGD 4.8 under LARC, 2 x
160 + 4 x 96 crops, three groupings into 3,000 clusters; linear probe 74.3 %. One more epoch, in
which nothing moves, fills the bank ahead of them. Differences: the warm-up starts at 0, ahead of
that epoch, and so at .44 after it (there at .3); BatchNorm sees the whole batch and not 512 images
of it; images are first shrunk to a shorter side of 256 (`data.max_side`).
"""

from jssl.recipes import IMAGENET, TINY_RESNET, mlp, recipe, resnet, simclr_augment


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="deepcluster_v2",
            steps=125_427,  # 401 epochs of 1,281,167
            batch_size=4096,
            clusters=(3000, 3000, 3000), cluster_every=313, kmeans_iterations=10, temperature=0.1,
            data=dict(source="tfds", name="imagenet2012", max_side=256, workers=16),
            model=resnet("resnet50", "imagenet", init="fan_out"),
            head=mlp(2048, 128, last="bias"),
            augment=simclr_augment(
                160, (0.08, 1.0), (0.8, 0.8, 0.8, 0.2), blur=0.5,
                pixels=IMAGENET | dict(std=(0.228, 0.224, 0.225)),  # .228, as there
            ),
            local=dict(count=4, size=96, crop_scale=(0.05, 0.14)),
            optim=dict(
                name="larc", lr=4.8, lr_final=4.8e-3, warmup_steps=3_440, weight_decay=1e-6,
                no_decay=(), freeze=("",), freeze_steps=313,
            ),
            eval=dict(split="validation", size=224, crop_fraction=0.875),
        ),
        tiny=TINY_RESNET | {
            "head.features": (16, 8), "clusters": (6, 4), "cluster_every": 1, "eval.size": 32,
            "local.count": 1, "local.size": 16, "optim.warmup_steps": 1, "optim.freeze_steps": 1,
        },
    )  # fmt: skip
