"""jssl train --config=configs/deepcluster_cifar10.py --config.data.dir=DATA --workdir=runs/dc1_c10

DeepCluster (2018) on CIFAR-10 with the optimizer, the crops and the schedule of DeepCluster v2's
recipe: ResNet-18, batch 256, 1,000 epochs, one plain k-means of whitened encoder features into
3,000 clusters, and a linear classifier. No figure is published for this network and data set. The
first epoch fills the bank; all parameters are frozen for that time.
"""

from jssl.recipes import (
    CIFAR,
    EPOCHS50,
    SOLO_OPTIM,
    TINY_RESNET,
    recipe,
    resnet,
    simclr_augment,
)


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="deepcluster",
            steps=195_000,  # 1,000 epochs of 195 batches
            batch_size=256,
            num_clusters=3000, cluster_every=195, kmeans_iterations=10, pca_dims=256,
            data=dict(source="tfds", name="cifar10", max_side=32, on_device=True),
            model=resnet("resnet18", "cifar", init="fan_out"),
            augment=simclr_augment(32, (0.08, 1.0), (0.8, 0.8, 0.8, 0.2), pixels=CIFAR),
            local=dict(count=0),
            optim=SOLO_OPTIM | dict(
                lr=0.6, lr_final=6e-4, weight_decay=1e-6, no_decay=(), warmup_steps=2_145,
                freeze=("",), freeze_steps=195,
            ),
            checkpoint=dict(every=2_000),
            eval=dict(every=9_750),
        ),
        epochs50=EPOCHS50 | {
            "cluster_every": 97, "optim.freeze_steps": 97, "optim.warmup_steps": 1_067,
        },
        tiny=TINY_RESNET | {
            "data.split": "train[:16]", "num_clusters": 6,
            "cluster_every": 1, "optim.warmup_steps": 1, "optim.freeze_steps": 1,
        },
    )  # fmt: skip
