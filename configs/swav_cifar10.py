"""jssl train --config=configs/swav_cifar10.py --config.data.dir=DATA --workdir=runs/swav_c10

SwAV on CIFAR-10 with the settings of lightly's benchmark (docs, cifar10_benchmark.py): ResNet-18,
batch 512, 200 epochs of Adam, no small crops; published there: kNN .842 (k=200, T=0.1, best epoch,
original PNG pixels). Its decay of 1e-6, and the bias of its prototypes, are left out. :solo has
solo-learn's settings, 1,000 epochs, queue from epoch 50: online linear probe 89.17 %.
"""

from jssl.recipes import EPOCHS50, SOLO_LEARN, TINY_RESNET, mlp, recipe, resnet, simclr_augment


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="swav",
            steps=19_531,  # 200 epochs of 50,000
            batch_size=512,
            num_prototypes=512, temperature=0.1, epsilon=0.05, sinkhorn_iterations=3,
            queue_size=0, queue_start=0,
            data=dict(source="tfds", name="cifar10", max_side=32, on_device=True),
            model=resnet("resnet18", "cifar"),
            head=mlp(512, 128, last="bias"),
            augment=simclr_augment(32, (0.14, 1.0), (0.4, 0.4, 0.4, 0.1)),
            local=dict(count=0),
            optim=dict(name="adamw", lr=2e-3, lr_scaling="linear"),
            checkpoint=dict(every=2_000),
            eval=dict(every=4_882),
        ),
        epochs50=EPOCHS50,
        solo=SOLO_LEARN | {
            "num_prototypes": 3000, "queue_size": 3840, "queue_start": 9_750,
            "head.features": (2048, 128),
            "optim.lr": 0.6, "optim.lr_final": 6e-4, "optim.weight_decay": 1e-6,
            "optim.no_decay": (),
            "optim.freeze": ("^prototypes",), "optim.freeze_steps": 390,
            "augment.crop_scale": (0.08, 1.0), "augment.brightness": 0.8, "augment.contrast": 0.8,
            "augment.saturation": 0.8, "augment.hue": 0.2,
        },
        tiny=TINY_RESNET | {
            "head.features": (16, 8), "num_prototypes": 12, "queue_size": 32, "queue_start": 2,
            "optim.freeze": ("^prototypes",), "optim.freeze_steps": 1,
        },
    )  # fmt: skip
