"""jssl train --config=configs/dino_cifar10.py --config.data.dir=DATA --workdir=runs/dino_c10

DINO on CIFAR-10 with the settings of lightly's benchmark (docs, cifar10_benchmark.py): ResNet-18,
batch 512, 200 epochs, no local crops; published there: kNN .813 (k=200, T=0.1, best epoch, original
PNG pixels). :solo has solo-learn's settings, 1,000 epochs: online linear probe 89.52 %.
"""

from jssl.recipes import (
    EPOCHS50,
    LIGHTLY,
    SOLO_LEARN,
    TINY_RESNET,
    mlp,
    recipe,
    resnet,
    simclr_augment,
)


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="dino",
            steps=19_531,  # 200 epochs of 50,000
            batch_size=512,
            out_dim=2048, norm_last_layer=True, centering="center", temperature=0.1,
            center_momentum=0.9,
            eval_network="student",
            teacher_temp_start=0.04, teacher_temp_end=0.04, teacher_temp_warmup_steps=0,
            ema_decay=0.99, ema_decay_final=0.99,
            data=dict(source="tfds", name="cifar10", max_side=32, on_device=True),
            model=resnet("resnet18", "cifar"),
            head=mlp(2048, 256, last="bias", activation="gelu"),
            augment=simclr_augment(32, (0.4, 1.0), (0.4, 0.4, 0.2, 0.1)),
            augment_second_view=dict(solarize_prob=0.2),  # the second view
            local=dict(count=0),
            optim=LIGHTLY,
            checkpoint=dict(every=2_000),
            eval=dict(every=4_882),
        ),
        epochs50=EPOCHS50,
        solo=SOLO_LEARN | {
            "out_dim": 4096, "teacher_temp_end": 0.07, "teacher_temp_warmup_steps": 9_750,
            "ema_decay": 0.9995,
            "ema_decay_final": 1.0, "head.features": (2048, 2048, 256), "head.norm": False,
            "head.init": "trunc02", "augment.crop_scale": (0.08, 1.0), "optim.lr": 0.3,
            "optim.weight_decay": 1e-6, "optim.freeze": ("^prototypes",), "optim.freeze_steps": 195,
        },
        tiny=TINY_RESNET | {
            "head.features": (16, 8), "out_dim": 12, "teacher_temp_warmup_steps": 3,
            "teacher_temp_end": 0.07,
            "optim.freeze": ("^prototypes",), "optim.freeze_steps": 1,
        },
    )  # fmt: skip
