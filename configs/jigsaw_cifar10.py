"""jssl train --config=configs/jigsaw_cifar10.py --config.data.dir=DATA --workdir=runs/jigsaw_c10

Jigsaw puzzles of CIFAR-10: 2 x 2 tiles of 12 pixels in cells of 16, all 24 permutations, two of
three images gray. No settings are published for so small images. The optimizer, the length and the
network are those of rotation_cifar10.py; a batch of 128 images has 512 tiles.
"""

from jssl.recipes import CIFAR, TINY_RESNET, crop_and_flip, mlp, recipe, resnet


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="jigsaw",
            steps=78_125,  # 200 epochs of 50,000
            batch_size=128,
            grid=2, tile=12, num_permutations=24,
            data=dict(source="tfds", name="cifar10", max_side=32, on_device=True),
            model=resnet("resnet18", "cifar", init="fan_out"),
            patch_head=mlp(256, last="bn"),
            head=mlp(24, last="bias"),
            augment=crop_and_flip(32, (0.75, 1.0)) | CIFAR | dict(gray_prob=0.66),
            optim=dict(
                name="sgd", lr=0.1, nesterov=True, weight_decay=5e-4, no_decay=(),
                schedule="steps", drop_at=(60 / 200, 120 / 200, 160 / 200), drop_factor=0.2,
            ),
            checkpoint=dict(every=5_000),
            eval=dict(every=19_531),
            log=dict(render_every=19_531),
        ),
        epochs50={"steps": 19_531},
        tiny=TINY_RESNET | {"patch_head.features": (16,)},
    )  # fmt: skip
