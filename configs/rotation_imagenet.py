"""jssl train --config=configs/rotation_imagenet.py --config.data.dir=DATA --workdir=runs/rot_in1k

RotNet on ImageNet-1k with the settings of open-mmlab/mmselfsup
(rotation-pred_resnet50_8xb16-steplr-70e_in1k.py): ResNet-50, 128 images in four rotations, 70
epochs of SGD, rate .2, a tenth at epochs 30 and 50, 5 epochs of warm-up, decay 1e-4 of every
parameter; linear probe of the pooled features 44.35 %, of the third stage 54.20 %. Differences: the
warm-up starts at 0 and not at .02, images are first shrunk to a shorter side of 256
(`data.max_side`).
"""

from jssl.recipes import TINY_RESNET, crop_and_flip, mlp, recipe, resnet


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="rotation",
            steps=700_638,  # 70 epochs of 1,281,167
            batch_size=128,
            data=dict(source="tfds", name="imagenet2012", max_side=256, workers=16),
            model=resnet("resnet50", "imagenet", init="fan_out"),
            head=mlp(4, last="bias"),
            augment=crop_and_flip(224, (0.08, 1.0)),
            optim=dict(
                name="sgd", lr=0.2, warmup_steps=50_045, weight_decay=1e-4, no_decay=(),
                schedule="steps", drop_at=(30 / 70, 50 / 70),
            ),
            eval=dict(split="validation", crop_fraction=0.875),
        ),
        tiny=TINY_RESNET | {"optim.warmup_steps": 1, "augment.crop_scale": (0.5, 1.0)},
    )  # fmt: skip
