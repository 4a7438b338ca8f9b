"""jssl train --config=configs/dino_imagenette.py --config.data.dir=DATA --workdir=runs/dino_nette

DINO on Imagenette (160 px) at 128 px with the settings of lightly's benchmark (docs,
imagenette_benchmark.py): ResNet-18, batch 256, 800 epochs of SGD, six local crops of 64; published
there: kNN .888 (k=200, T=0.1, best epoch), after 200 epochs .873. There the head is drawn from
N(0, .2), the teacher's anew and not as a copy; here as PyTorch draws it, and copied. More
differences: see simclr_imagenette.py.
"""

from jssl.recipes import LIGHTLY, TINY_RESNET, mlp, recipe, resnet, simclr_augment


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="dino",
            steps=29_590,  # 800 epochs of 9,469
            batch_size=256,
            out_dim=2048, norm_last_layer=True, centering="center", temperature=0.1,
            center_momentum=0.9,
            eval_network="student",
            teacher_temp_start=0.04, teacher_temp_end=0.04, teacher_temp_warmup_steps=0,
            ema_decay=0.99, ema_decay_final=0.99,
            data=dict(source="tfds", name="imagenette/160px-v2", max_side=160, on_device=True),
            model=resnet("resnet18", "imagenet", init="fan_out"),
            head=mlp(2048, 2048, 256, last="bias", activation="gelu"),
            augment=simclr_augment(128, (0.4, 1.0), (0.4, 0.4, 0.2, 0.1), blur=1.0),
            augment_second_view=dict(blur_prob=0.1, solarize_prob=0.2),  # the second view
            local=dict(count=6, size=64, crop_scale=(0.05, 0.4), blur_prob=0.5),
            optim=LIGHTLY | dict(lr=0.06),
            checkpoint=dict(every=2_000),
            eval=dict(every=3_700, split="validation"),
        ),
        epochs200={"steps": 7_397},
        tiny=TINY_RESNET | {
            "head.features": (16, 8), "out_dim": 12, "teacher_temp_warmup_steps": 3,
            "teacher_temp_end": 0.07,
            "local.count": 1, "local.size": 16, "optim.freeze": ("^prototypes",),
            "optim.freeze_steps": 1,
        },
    )  # fmt: skip
