"""jssl train --config=configs/byol_cifar10.py --config.data.dir=DATA --workdir=runs/byol_c10

BYOL on CIFAR-10 with the settings of lightly's benchmark (docs, cifar10_benchmark.py): ResNet-18,
batch 512, 200 epochs; published there: kNN .868 (k=200, T=0.1, best epoch, original PNG pixels).
lightly's loss is a quarter of the paper's, which is used here: the rate is a quarter of lightly's.
"""

from jssl.config import recipe


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="byol",
            steps=19_531,  # 200 epochs of 50,000
            batch_size=512,
            ema=0.99, ema_final=0.99,
            data=dict(source="tfds", name="cifar10", canvas=32, resident=True),
            model=dict(
                name="resnet18", stem="cifar", width=64, zero_init=False, init="torch",
                dtype="bfloat16",
            ),
            head=dict(
                features=(1024, 256), norm=True, last_norm=False, last_scale=False,
                last_bias=True, init="torch",
            ),
            predictor=dict(
                features=(1024, 256), norm=True, last_norm=False, last_scale=False,
                last_bias=True, init="torch",
            ),
            augment_b=dict(blur=0.0, solarize=0.0),  # the second view; off, as at lightly's
            augment=dict(
                mode="fused", size=32, crop_scale=(0.08, 1.0), crop_ratio=(3 / 4, 4 / 3),
                flip=0.5, jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1,
                gray=0.2, blur=0.0, blur_sigma=(0.1, 2.0), solarize=0.0,
                mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
            ),
            optim=dict(
                name="sgd", lr=0.03, lr_scaling="linear", momentum=0.9, weight_decay=5e-4,
                exclude=(),  # PyTorch's SGD decays every parameter
            ),
            checkpoint=dict(every=2_000),
            eval=dict(every=4_882),
        ),
        epochs50={"steps": 4_882},
        tiny={
            "steps": 6, "batch_size": 16, "data.source": "digits", "data.split": "train[:3%]",
            "model.name": "resnet10", "model.width": 8, "model.dtype": "float32",
            "head.features": (16, 8),
            "predictor.features": (16, 8),
            "checkpoint.every": 2, "eval.every": 3, "eval.split": "test[:5%]", "log.every": 1,
        },
    )  # fmt: skip
