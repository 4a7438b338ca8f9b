"""jssl train --config=configs/rotation_cifar10.py --config.data.dir=DATA --workdir=runs/rot_c10

RotNet on CIFAR-10 with the settings of gidariss/FeatureLearningRotNet
(config/CIFAR10_RotNet_NIN4blocks.py): 128 images in four rotations, 200 epochs of SGD with Nesterov
momentum, rate .1, times .2 at epochs 60, 120 and 160, decay 5e-4 of every parameter. Differences: a
ResNet-18 and not a Network-in-Network of four blocks, whose second block is evaluated there by
classifiers of its feature map; resized crops and not crops of the padded image.
"""

from jssl.recipes import CIFAR, TINY_RESNET, crop_and_flip, mlp, recipe, resnet


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="rotation",
            steps=78_125,  # 200 epochs of 50,000
            batch_size=128,
            data=dict(source="tfds", name="cifar10", max_side=32, on_device=True),
            model=resnet("resnet18", "cifar", init="fan_out"),
            head=mlp(4, last="bias"),
            augment=crop_and_flip(32, (0.75, 1.0)) | CIFAR,
            optim=dict(
                name="sgd", lr=0.1, nesterov=True, weight_decay=5e-4, no_decay=(),
                schedule="steps", drop_at=(60 / 200, 120 / 200, 160 / 200), drop_factor=0.2,
            ),
            checkpoint=dict(every=5_000),
            eval=dict(every=19_531),
            log=dict(render_every=19_531),
        ),
        epochs50={"steps": 19_531},
        tiny=TINY_RESNET,
    )  # fmt: skip
