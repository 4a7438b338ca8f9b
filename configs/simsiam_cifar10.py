"""jssl train --config=configs/simsiam_cifar10.py --config.data.dir=DATA --workdir=runs/simsiam_c10

SimSiam on CIFAR-10 with the settings of lightly's benchmark (docs, cifar10_benchmark.py):
ResNet-18, batch 512, 200 epochs, rate .06 whatever the batch; published there: kNN .764 (k=200,
T=0.1, best epoch, original PNG pixels; .904 after 800 epochs).
"""

from jssl.config import recipe


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="simsiam",
            steps=19_531,  # 200 epochs of 50,000
            batch_size=512,
            data=dict(source="tfds", name="cifar10", canvas=32, resident=True),
            model=dict(
                name="resnet18", stem="cifar", width=64, zero_init=False, init="torch",
                dtype="bfloat16",
            ),
            head=dict(
                features=(2048, 2048), norm=True, last_norm=True, last_scale=True, last_bias=True,
                init="torch",
            ),
            predictor=dict(
                features=(512, 2048), norm=True, last_norm=False, last_scale=False, last_bias=True,
                init="torch",
            ),
            augment=dict(
                mode="fused", size=32, crop_scale=(0.08, 1.0), crop_ratio=(3 / 4, 4 / 3),
                flip=0.5, jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1,
                gray=0.2, blur=0.0, blur_sigma=(0.1, 2.0), solarize=0.0,
                mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
            ),
            optim=dict(
                name="sgd", lr=0.06, momentum=0.9, weight_decay=5e-4,
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
