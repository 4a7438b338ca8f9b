"""jssl train --config=configs/distill_imagenette.py --config.teacher=WEIGHTS \\
    --config.data.dir=DATA --workdir=runs/distill_nette

A ViT-S/16 learns the features of a frozen teacher on Imagenette (160 px) at 128 px. WEIGHTS is a
folder of timm or transformers on this machine, such as `facebook/dinov2-base`, or a workdir of
jssl; it says which encoder it is. The teacher's images get its own pixel statistics and a size of
whole patches. Cosine loss on class tokens and on patches (AM-RADIO, arXiv 2312.06709). No one has
published settings for this: 200 epochs, AdamW, weak augmentation.

:tiny has a teacher of random weights, to test the program.
"""

from jssl.recipes import TINY_VIT, recipe, resnet, simclr_augment, vit


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="distill",
            steps=7_397,  # 200 epochs of 9,469
            batch_size=256,
            teacher=dict(path="", part="encoder", size=0, mean=(), std=()),
            teacher_model={},  # as the weights say
            teacher_head={},
            loss="cosine", global_weight=1.0, dense_weight=1.0, relation_weight=0.0,
            prototype_weight=0.0, hidden=(), out_dim=0, temperature=0.1, teacher_temp=0.07,
            data=dict(source="tfds", name="imagenette/160px-v2", max_side=160, on_device=True),
            model=vit("vit_s", 16, 128, drop_path=0.1),
            augment=simclr_augment(128, (0.2, 1.0), (0.2, 0.2, 0.2, 0.05)),
            optim=dict(
                name="adamw", lr=1e-3, lr_scaling="linear", warmup_steps=370, weight_decay=0.05,
            ),
            checkpoint=dict(every=2_000),
            eval=dict(every=1_850, split="validation"),
        ),
        tiny=TINY_VIT | {
            "teacher_model": resnet("resnet_test", "cifar") | dict(width=8, dtype="float32"),
            "teacher.size": 24, "optim.warmup_steps": 1,
        },
    )  # fmt: skip
