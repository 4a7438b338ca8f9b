"""jssl train --config=configs/dino_imagenet.py --config.data.dir=DATA --workdir=runs/dino_in1k

DINO on ImageNet-1k with the settings of the ResNet-50 that its authors released: 800 epochs, LARS
.3 x batch / 256, 2 x 224 + 6 x 96 crops, BatchNorm in the head; kNN 67.5 %, linear probe 75.3 %.
The settings are those of the arguments beside the released weights, read from a public copy of
them. :sgd has the README's ResNet-50 run (100 epochs, batch 512), without a figure. Differences:
batch 4096 and not 4080 of 80 devices; crops are bilinear and not bicubic, images are first shrunk
to a shorter side of 256 (`data.max_side`), the teacher's temperature rises each step and not each
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
            out_dim=60000, norm_last_layer=True, centering="center", temperature=0.1,
            center_momentum=0.9,
            eval_network="teacher",
            teacher_temp_start=0.04, teacher_temp_end=0.07, teacher_temp_warmup_steps=15_639,
            ema_decay=0.996, ema_decay_final=1.0,
            data=dict(source="tfds", name="imagenet2012", max_side=256, workers=16),
            model=resnet("resnet50", "imagenet", init="fan_out"),
            head=mlp(2048, 2048, 256, last="bias", activation="gelu", init="trunc02"),
            augment=simclr_augment(224, (0.14, 1.0), (0.4, 0.4, 0.2, 0.1), blur=1.0),
            augment_second_view=dict(blur_prob=0.1, solarize_prob=0.2),  # the second view
            local=dict(count=6, size=96, crop_scale=(0.05, 0.14), blur_prob=0.5),
            optim=dict(
                name="larc", lr=0.3, lr_final=3e-4, lr_scaling="linear", warmup_steps=3_127,
                weight_decay=1e-6, freeze=("^prototypes",), freeze_steps=313,
            ),
            eval=dict(split="validation", crop_fraction=0.875),
        ),
        sgd={
            "batch_size": 512, "out_dim": 65536, "teacher_temp_end": 0.04,
            "teacher_temp_warmup_steps": 0,
            "head.norm": False, "local.count": 8, "optim.name": "sgd", "optim.lr": 0.03,
            "optim.lr_final": 5e-7, "optim.warmup_steps": 25_022, "optim.weight_decay": 1e-4,
            "optim.clip_norm_per_tensor": 3.0, "optim.freeze_steps": 2_502,
        },
        tiny=TINY_RESNET | {
            "head.features": (16, 8), "out_dim": 12, "teacher_temp_warmup_steps": 3,
            "teacher_temp_end": 0.07,
            "local.count": 1, "local.size": 16, "optim.warmup_steps": 1, "optim.freeze_steps": 1,
        },
    )  # fmt: skip
