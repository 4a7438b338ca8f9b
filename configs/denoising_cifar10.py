"""jssl train --config=configs/denoising_cifar10.py --config.data.dir=DATA --workdir=runs/denoise

A convolutional denoising autoencoder on CIFAR-10 (Vincent et al. 2010): Gaussian noise of deviation
.3 on pixels in 0..1. :masking sets a fourth of the values to 0, :salt_pepper sets them to 0 or 1;
all three lie in the range of the paper. No one has published settings for these networks.
"""

from jssl.recipes import CIFAR, EPOCHS50, TINY_RESNET, recipe, resnet, whole_images


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="denoising",
            steps=19_531,  # 200 epochs of 50,000
            batch_size=512,
            noise="gaussian", noise_strength=0.3,
            data=dict(source="tfds", name="cifar10", max_side=32, on_device=True),
            model=resnet("resnet18", "cifar"),
            decoder=dict(
                bottleneck="map", dim=64, width=32, blocks=1, upsample="resize", norm="group",
            ),
            augment=whole_images(32, CIFAR, flip=0.5),
            optim=dict(name="adamw", lr=1e-3, warmup_steps=500),
            checkpoint=dict(every=2_000),
            eval=dict(every=4_882),
            log=dict(render_every=2_000),
        ),
        epochs50=EPOCHS50,
        masking={"noise": "masking", "noise_strength": 0.25},
        salt_pepper={"noise": "salt_pepper", "noise_strength": 0.25},
        tiny=TINY_RESNET | {
            "decoder.dim": 4, "decoder.width": 4, "optim.warmup_steps": 1, "log.render_every": 3,
        },
    )  # fmt: skip
