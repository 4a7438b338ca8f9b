"""jssl train --config=configs/biggan_cifar10.py --config.data.dir=DATA --workdir=runs/biggan_c10

BigGAN on CIFAR-10, unconditional, with the settings of BigGAN-PyTorch's scripts/launch_cifar_ema.sh
(there class-conditional): 500 epochs, 4 discriminator steps of 50 images per generator step, Adam
with rate 2e-4 and beta 0, .999. :conditional reads labels. Published for conditional BigGAN: FID
9.59 (mit-han-lab/data-efficient-gans) and 8.03 (StudioGAN, with wider networks).
:ssgan has the settings of mimicry's SS-GAN: SNGAN's widths, no spectral norm in the generator, 5
discriminator steps of 64 images, 100,000 steps, the rotation loss; published there: FID 14.65.
Differences: the embedding of a class is shared by all layers (the script has one for each);
mimicry's blocks are initialized with gain sqrt(2), and its samples are not of an average.
"""

from jssl.recipes import TINY, crop_and_flip, recipe


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="biggan",
            steps=125_000,  # 500 epochs of 50,000
            batch_size=200,
            labels=False, num_classes=10,
            discriminator_steps=4,
            rotate_every=0, rotation_weight=1.0, rotation_weight_generator=0.2,
            orthogonal_weight=0.0,
            ema_decay=0.9999, ema_start=1_000,
            truncation=0.0,
            data=dict(source="tfds", name="cifar10", max_side=32, on_device=True),
            model=dict(
                name="biggan_32", width=64, attention=0, init="normal002", dtype="float32"
            ),
            generator=dict(
                latent=128, width=64, hierarchical=False, class_width=128, attention=0,
                spectral_norm=True, init="normal002",
            ),
            augment=crop_and_flip(32, (1.0, 1.0), flip=0.0) | dict(
                crop_ratio=(1.0, 1.0), mean=(0.5,), std=(0.5,)
            ),
            optim=dict(name="adamw", lr=2e-4, schedule="constant", b1=0.0, b2=0.999),
            optim_discriminator=dict(lr=2e-4),
            checkpoint=dict(every=5_000),
            eval=dict(every=12_500),
            log=dict(render_every=5_000),
        ),
        epochs50={"steps": 12_500},
        conditional={"labels": True},
        ssgan={
            "steps": 100_000, "batch_size": 320, "discriminator_steps": 5, "rotate_every": 4,
            "model.width": 32, "model.init": "xavier", "generator.spectral_norm": False,
            "generator.init": "xavier", "optim.b2": 0.9, "optim.schedule": "linear",
            "ema_decay": 0.0,
        },
        tiny=TINY | {
            "discriminator_steps": 2, "rotate_every": 1, "model.width": 4, "generator.latent": 16,
            "generator.width": 4, "generator.class_width": 8, "ema_start": 2,
            "log.render_every": 0,
        },
    )  # fmt: skip
