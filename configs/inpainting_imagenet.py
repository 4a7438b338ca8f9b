"""jssl train --config=configs/inpainting_imagenet.py --config.data.dir=DATA --workdir=runs/inpaint

A context encoder on ImageNet-1k with the settings of pathak22/context-encoder (train.lua, README):
images of 128 pixels, the square of 64 in the center with a band of 4, a bottleneck of 4,000, batch
64, Adam 2e-4 with b1 .5, and 25 epochs (the default of train.lua; its README trains 500 on a small
set). :blocks masks random rectangles, as the paper does to learn features. Differences: the encoder
is a ResNet-18, whose map also is 4 x 4 x 512; no adversarial loss, without which the README has no
setting; the paper's figure for features, with AlexNet, is not comparable.
"""

from jssl.recipes import TINY_RESNET, crop_and_flip, recipe, resnet


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="inpainting",
            steps=500_456,  # 25 epochs of 1,281,167
            batch_size=64,
            mask="center", mask_ratio=0.25, overlap=4,
            data=dict(source="tfds", name="imagenet2012", max_side=350, workers=16),
            model=resnet("resnet18", "imagenet"),
            decoder=dict(
                bottleneck="vector", dim=4000, width=16, blocks=0, upsample="transposed",
                norm="batch",
            ),
            # Squares of 128 pixels of images whose shorter side has 350.
            augment=crop_and_flip(128, (0.1, 0.134)) | dict(crop_ratio=(1.0, 1.0)),
            optim=dict(name="adamw", lr=2e-4, b1=0.5, schedule="constant"),
            checkpoint=dict(every=10_000),
            eval=dict(split="validation", crop_fraction=0.875),
            log=dict(render_every=10_000),
        ),
        blocks={"mask": "blocks"},
        tiny=TINY_RESNET | {
            "decoder.dim": 8, "decoder.width": 2, "overlap": 1, "log.render_every": 3,
        },
    )  # fmt: skip
