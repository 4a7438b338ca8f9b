"""jssl train --config=configs/simclr_digits.py --workdir=runs/simclr_digits

SimCLR on the embedded scattered digits: the recipe of `make demo`, minutes on two CPU cores. Color
is a nuisance there, hence the strong hue; views of 24 of the 32 pixels halve the work.
"""

from jssl.recipes import recipe


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="simclr",
            steps=1_600,
            batch_size=64,
            loss="nt_xent", temperature=0.2,
            data=dict(source="digits", max_side=32, on_device=True),
            model=dict(
                name="resnet10", stem="cifar", width=16, zero_init_residual=False, init="fan_out",
                dtype="float32",
            ),
            head=dict(
                features=(256, 128), norm=True, last_norm=True, last_scale=True, last_bias=True,
                activation="relu", init="lecun",
            ),
            augment=dict(
                mode="fused", size=24, crop_scale=(0.5, 1.0), crop_ratio=(3 / 4, 4 / 3),
                flip_prob=0.0, jitter_prob=0.8, brightness=0.5, contrast=0.5, saturation=0.8,
                hue=0.5,
                gray_prob=0.2, blur_prob=0.0, blur_sigma=(0.1, 2.0), solarize_prob=0.2,
                mean=(0.5,), std=(0.25,),
            ),
            optim=dict(name="adamw", lr=2e-3, warmup_steps=80, weight_decay=1e-4),
            checkpoint=dict(every=400),
            eval=dict(every=800, size=32, knn_k=20),
        ),
        tiny={
            "steps": 6, "batch_size": 16, "data.split": "train[:3%]", "model.name": "resnet_test",
            "model.width": 8, "head.features": (16, 8), "optim.warmup_steps": 1,
            "checkpoint.every": 2, "eval.every": 3, "eval.split": "test[:5%]", "log.every": 1,
        },
    )  # fmt: skip
