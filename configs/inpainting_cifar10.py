"""jssl train --config=configs/inpainting_cifar10.py --config.data.dir=DATA --workdir=runs/inpaint

A context encoder on CIFAR-10 (Pathak et al. 2016): random rectangles of up to a fourth of an image,
and a band of one pixel, as large beside the image as the published one. :center masks a square in
the center. :pixels masks half of the pixels, with a plain convolutional autoencoder that keeps the
places. No one has published settings for CIFAR-10; the rate and the betas are the published ones.
"""

from jssl.recipes import CIFAR, EPOCHS50, TINY_RESNET, recipe, resnet, whole_images


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="inpainting",
            steps=39_063,  # 100 epochs of 50,000
            batch_size=128,
            mask="blocks", mask_ratio=0.25, overlap=1,
            data=dict(source="tfds", name="cifar10", max_side=32, on_device=True),
            model=resnet("resnet18", "cifar"),
            decoder=dict(
                bottleneck="vector", dim=1024, width=32, blocks=0, upsample="transposed",
                norm="batch",
            ),
            augment=whole_images(32, CIFAR, flip=0.5),
            optim=dict(name="adamw", lr=2e-4, b1=0.5, schedule="constant"),
            checkpoint=dict(every=2_000),
            eval=dict(every=9_766),
            log=dict(render_every=2_000),
        ),
        epochs50=EPOCHS50,
        center={"mask": "center"},
        pixels={
            "mask": "pixels", "mask_ratio": 0.5, "overlap": 0, "decoder.bottleneck": "map",
            "decoder.dim": 64, "decoder.blocks": 1, "decoder.upsample": "resize",
        },
        tiny=TINY_RESNET | {"decoder.dim": 8, "decoder.width": 4, "log.render_every": 3},
    )  # fmt: skip
