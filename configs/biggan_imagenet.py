"""jssl train --config=configs/biggan_imagenet.py --config.data.dir=DATA --workdir=runs/biggan_in1k

BigGAN on ImageNet at 128 pixels with the settings of BigGAN-PyTorch's launch_BigGAN_bs256x8.sh:
2,048 images per step, rates 1e-4 and 4e-4, width 96, hierarchical latents, self-attention at 64
pixels, orthogonal initialization, EMA from step 20,000. :conditional reads labels, as published;
the paper has FID 8.7 (table 2). Differences: images are flipped; the whole batch is one step (there
8 accumulated parts, with BatchNorm of 256 images); activations are bfloat16.
"""

from jssl.recipes import TINY, crop_and_flip, recipe


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="biggan",
            steps=150_000,
            batch_size=2_048,
            labels=False, num_classes=1_000,
            discriminator_steps=1,
            rotate_every=0, rotation_weight=1.0, rotation_weight_generator=0.2,
            orthogonal_weight=0.0,
            ema_decay=0.9999, ema_start=20_000,
            truncation=0.5,
            data=dict(source="tfds", name="imagenet2012", max_side=256, workers=16),
            model=dict(
                name="biggan_128", width=96, attention=64, init="orthogonal", dtype="bfloat16"
            ),
            generator=dict(
                latent=120, width=96, hierarchical=True, class_width=128, attention=64,
                spectral_norm=True, init="orthogonal",
            ),
            augment=crop_and_flip(128, (1.0, 1.0)) | dict(
                crop_ratio=(1.0, 1.0), mean=(0.5,), std=(0.5,)
            ),
            optim=dict(
                name="adamw", lr=1e-4, schedule="constant", b1=0.0, b2=0.999, eps=1e-6
            ),
            optim_discriminator=dict(lr=4e-4),
            checkpoint=dict(every=5_000),
            eval=dict(every=25_000),
            log=dict(render_every=5_000),
        ),
        conditional={"labels": True},
        tiny=TINY | {
            "model.name": "biggan_32", "model.width": 4, "model.attention": 16,
            "generator.latent": 16, "generator.width": 4, "generator.class_width": 8,
            "generator.attention": 16, "orthogonal_weight": 1e-4, "ema_start": 2,
            "log.render_every": 0,
        },
    )  # fmt: skip
