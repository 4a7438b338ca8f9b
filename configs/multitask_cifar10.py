"""jssl train --config=configs/multitask_cifar10.py --config.data.dir=DATA --workdir=runs/multi_c10

Contrastive learning, inpainting and rotation at once, on one ResNet-18 on CIFAR-10. Optimizer and
length are those of simclr_cifar10.py, with half of its batch, as a step sees each image seven
times. No one has published this combination (benchmarks/NOTES.md has a small comparison).
:uncertainty and :gradnorm learn the weights of the tasks.
"""

from jssl.recipes import EPOCHS50, LIGHTLY, TINY_RESNET, mlp, recipe, resnet, simclr_augment

PLAIN = dict(jitter_prob=0.0, gray_prob=0.0, crop_scale=(0.6, 1.0))  # colors and most pixels stay


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="multitask",
            tasks=(("simclr", 1.0), ("inpainting", 1.0), ("rotation", 0.5)),
            balance="fixed", gradnorm_alpha=1.5, gradnorm_lr=0.025,
            steps=39_062,  # 200 epochs of 50,000
            batch_size=256,
            data=dict(source="tfds", name="cifar10", max_side=32, on_device=True),
            model=resnet("resnet18", "cifar"),
            augment=simclr_augment(32, (0.2, 1.0), (0.4, 0.4, 0.4, 0.1)),
            simclr=dict(temperature=0.5, loss="nt_xent", head=mlp(512, 128, last="bn")),
            inpainting=dict(
                mask="blocks", mask_ratio=0.25, overlap=0, augment=PLAIN,
                decoder=dict(
                    bottleneck="map", dim=64, width=32, blocks=0, upsample="resize", norm="batch",
                ),
            ),
            rotation=dict(head=mlp(4, last="bias"), augment=PLAIN),
            optim=LIGHTLY,
            checkpoint=dict(every=2_000),
            eval=dict(every=9_766),
            log=dict(render_every=9_766),
        ),
        epochs50=EPOCHS50 | {"steps": 9_766, "batch_size": 256},
        uncertainty={"balance": "uncertainty", "optim.no_decay": ("^balance",)},
        gradnorm={"balance": "gradnorm"},
        tiny=TINY_RESNET | {
            "simclr.head.features": (16, 8), "inpainting.decoder.dim": 8,
            "inpainting.decoder.width": 8, "log.render_every": 3,
        },
    )  # fmt: skip
