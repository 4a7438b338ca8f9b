"""jssl train --config=configs/simclr_digits.py --workdir=runs/simclr_digits

SimCLR on the embedded scattered digits: the recipe of `make demo`, minutes on two CPU cores.
"""

from jssl.config import recipe


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="simclr",
            steps=1_000,
            batch_size=256,
            temperature=0.5,
            data=dict(source="digits", canvas=32, resident=True),
            model=dict(
                name="resnet18", stem="cifar", width=16, zero_init=False, init="torch",
                dtype="float32",
            ),
            head=dict(
                features=(512, 128), norm=True, last_norm=True, last_scale=True, last_bias=True,
                init="torch",
            ),
            augment=dict(
                mode="fused", size=32, crop_scale=(0.08, 1.0), crop_ratio=(3 / 4, 4 / 3),
                flip=0.0, jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1,
                gray=0.2, blur=0.0, blur_sigma=(0.1, 2.0), solarize=0.0,
                mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
            ),
            optim=dict(
                name="sgd", lr=0.12, lr_scaling="linear", momentum=0.9, weight_decay=5e-4,
                exclude=(),  # PyTorch's SGD decays every parameter
            ),
            checkpoint=dict(every=500),
            eval=dict(every=500),
        ),
        tiny={
            "steps": 6, "batch_size": 16,
            "data.source": "digits", "data.split": "train[:3%]", "model.width": 8,
            "model.dtype": "float32", "head.features": (16, 8), "checkpoint.every": 2,
            "eval.every": 3, "log.every": 1,
        },
    )  # fmt: skip
