"""jssl train --config=configs/vae_cifar10.py --config.data.dir=DATA --workdir=runs/vae_c10

A convolutional VAE on CIFAR-10: 128 latents, and a discretized logistic likelihood of the pixels
themselves, which are neither cropped nor resized. :gaussian has another likelihood, :beta4 is a
beta-VAE, :map has latents at 4 x 4 places. No one has published these settings. Published bits per
dimension of deep hierarchical VAEs are lower: 2.87 (openai/vdvae).
"""

from jssl.recipes import CIFAR, EPOCHS50, TINY_RESNET, recipe, resnet, whole_images


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="vae",
            steps=39_063,  # 100 epochs of 50,000
            batch_size=128,
            likelihood="discretized_logistic", beta=1.0, beta_warmup_steps=3_906, free_bits=0.0,
            data=dict(source="tfds", name="cifar10", max_side=32, on_device=True),
            model=resnet("resnet18", "cifar"),
            decoder=dict(
                bottleneck="vector", dim=128, width=64, blocks=1, upsample="resize", norm="group",
            ),
            augment=whole_images(32, CIFAR, flip=0.5),
            optim=dict(name="adamw", lr=1e-3, warmup_steps=500, clip_norm=1.0),
            checkpoint=dict(every=2_000),
            eval=dict(every=9_766),
            log=dict(render_every=2_000),
        ),
        epochs50=EPOCHS50,
        gaussian={"likelihood": "gaussian"},
        beta4={"beta": 4.0},
        map={"decoder.bottleneck": "map", "decoder.dim": 32, "free_bits": 0.25},
        tiny=TINY_RESNET | {
            "decoder.dim": 4, "decoder.width": 4, "beta_warmup_steps": 2, "optim.warmup_steps": 1,
            "log.render_every": 3,
        },
    )  # fmt: skip
