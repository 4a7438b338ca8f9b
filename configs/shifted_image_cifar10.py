"""jssl train --config=configs/shifted_image_cifar10.py --config.data.dir=DATA --workdir=runs/shift

Shifted windows of CIFAR-10: 24 of 32 pixels, shifted by up to 8. No paper describes this task
(jssl/methods/shifted_image.py), so network and length are those of rotation_cifar10.py, with AdamW.
"""

from jssl.recipes import CIFAR, TINY_RESNET, crop_and_flip, recipe, resnet


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="shifted_image",
            steps=78_125,  # 200 epochs of 50,000
            batch_size=128,
            window=24, max_shift=8,
            data=dict(source="tfds", name="cifar10", max_side=32, on_device=True),
            model=resnet("resnet18", "cifar", init="fan_out"),
            decoder=dict(dim=256, depth=3),
            augment=crop_and_flip(32, (0.5, 1.0)) | CIFAR,
            optim=dict(name="adamw", lr=1e-3, warmup_steps=1_000, weight_decay=0.05),
            checkpoint=dict(every=5_000),
            eval=dict(every=19_531),
            log=dict(render_every=19_531),
        ),
        epochs50={"steps": 19_531},
        tiny=TINY_RESNET | {"decoder.dim": 16, "decoder.depth": 1, "optim.warmup_steps": 1},
    )  # fmt: skip
