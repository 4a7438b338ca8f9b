"""jssl train --config=configs/vqvae_cifar10.py --config.data.dir=DATA --workdir=runs/vqvae_c10

VQ-VAE on CIFAR-10 with the settings of google-deepmind/sonnet examples/vqvae_example.ipynb: 512
codes of 64 numbers at 8 x 8 places, commitment .25, decay .99, Adam 3e-4, batch 32, 10,000 steps.
:fsq has a grid of 8 x 8 x 8 codes (arXiv 2309.15505). Differences: the encoder is a ResNet-8, whose
map has 128 channels as there; codes that get less than a tenth of an encoding per batch are drawn
anew.
"""

from jssl.recipes import CIFAR, EPOCHS50, TINY_RESNET, recipe, resnet, whole_images


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="vqvae",
            steps=10_000,
            batch_size=32,
            quantizer="ema", num_codes=512, commitment=0.25, codebook_decay=0.99, reseed_below=0.1,
            levels=(8, 8, 8),
            data=dict(source="tfds", name="cifar10", max_side=32, on_device=True),
            model=resnet("resnet8", "cifar") | dict(width=32),
            decoder=dict(
                bottleneck="map", dim=64, width=32, blocks=2, upsample="transposed", norm="none",
            ),
            augment=whole_images(32, CIFAR),
            optim=dict(name="adamw", lr=3e-4, schedule="constant"),
            eval=dict(every=5_000),
            log=dict(render_every=1_000),
        ),
        epochs50=EPOCHS50,
        fsq={"quantizer": "fsq", "decoder.dim": 3},
        tiny=TINY_RESNET | {"num_codes": 16, "decoder.width": 4, "log.render_every": 3},
    )  # fmt: skip
