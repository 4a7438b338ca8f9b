"""jssl train --config=configs/dino_imagenet.py --config.data.dir=DATA --workdir=runs/dino_in1k

DINO on ImageNet-1k with the settings of the ResNet-50 that its authors released: 800 epochs, LARS
.3 x batch / 256, 2 x 224 + 6 x 96 crops, BatchNorm in the head; kNN 67.5 %, linear probe 75.3 %.
The settings are those of the arguments beside the released weights, read from a public copy of
them. :sgd has the README's ResNet-50 run (100 epochs, batch 512), without a figure. Differences:
batch 4096 and not 4080 of 80 devices; crops are bilinear and not bicubic, images are first shrunk
to a shorter side of 256 (`data.canvas`), the teacher's temperature rises each step and not each
epoch.
"""

from jssl.recipes import TINY_RESNET, mlp, recipe, resnet, simclr_augment


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="dino",
            steps=250_227,  # 800 epochs of 1,281,167
            batch_size=4096,
            prototypes=60000, norm_last_layer=True, centring="centre", temperature=0.1,
            center_momentum=0.9,
            evaluate="teacher",
            teacher_first=0.04, teacher_last=0.07, teacher_warmup=15_639,
            ema=0.996, ema_final=1.0,
            data=dict(source="tfds", name="imagenet2012", canvas=256, workers=16),
            model=resnet("resnet50", "imagenet", init="fan_out"),
            head=mlp(2048, 2048, 256, last="bias", activation="gelu", init="trunc02"),
            augment=simclr_augment(224, (0.14, 1.0), (0.4, 0.4, 0.2, 0.1), blur=1.0),
            augment_b=dict(blur=0.1, solarize=0.2),  # the second view
            local=dict(count=6, size=96, crop_scale=(0.05, 0.14), blur=0.5),
            optim=dict(
                name="larc", lr=0.3, lr_final=3e-4, lr_scaling="linear", warmup_steps=3_127,
                weight_decay=1e-6, freeze=("^prototypes",), freeze_steps=313,
            ),
            eval=dict(split="validation", crop=0.875),
        ),
        sgd={
            "batch_size": 512, "prototypes": 65536, "teacher_last": 0.04, "teacher_warmup": 0,
            "head.norm": False, "local.count": 8, "optim.name": "sgd", "optim.lr": 0.03,
            "optim.lr_final": 5e-7, "optim.warmup_steps": 25_022, "optim.weight_decay": 1e-4,
            "optim.clip_tensor": 3.0, "optim.freeze_steps": 2_502,
        },
        tiny=TINY_RESNET | {
            "head.features": (16, 8), "prototypes": 12, "teacher_warmup": 3, "teacher_last": 0.07,
            "local.count": 1, "local.size": 16, "optim.warmup_steps": 1, "optim.freeze_steps": 1,
        },
    )  # fmt: skip
