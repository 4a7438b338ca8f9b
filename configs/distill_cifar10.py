"""jssl train --config=configs/distill_cifar10.py --config.teacher=WEIGHTS \\
    --config.data.dir=DATA --workdir=runs/distill_c10

A ResNet-18 learns the features of a frozen teacher on CIFAR-10. WEIGHTS is a workdir of jssl, or a
folder of timm or transformers on this machine; it says which encoder it is. Cosine loss on the
features of images and of feature maps (AM-RADIO, arXiv 2312.06709), weak augmentation, long
training ("patient and consistent", arXiv 2106.05237), with AdamW, decay and clipping of its code
(big_vision, proj/distill/bit_i1k.py). No one has published a rate for this: .003 is the best of a
small sweep (benchmarks/NOTES.md). :relation and :smooth_l1 are other losses; :prototypes takes a
workdir of dino or ibot as teacher (DINOv2, arXiv 2304.07193, section 5).

:tiny has a teacher of random weights, to test the program.
"""

from jssl.recipes import EPOCHS50, TINY_RESNET, mlp, recipe, resnet, simclr_augment, vit


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="distill",
            steps=19_531,  # 200 epochs of 50,000
            batch_size=512,
            teacher=dict(path="", part="encoder", size=0, mean=(), std=()),
            teacher_model={},  # as the weights say
            teacher_head={},
            loss="cosine", global_weight=1.0, dense_weight=1.0, relation_weight=0.0,
            prototype_weight=0.0, hidden=(), out_dim=0, temperature=0.1, teacher_temp=0.07,
            data=dict(source="tfds", name="cifar10", max_side=32, on_device=True),
            model=resnet("resnet18", "cifar"),
            augment=simclr_augment(32, (0.2, 1.0), (0.2, 0.2, 0.2, 0.05)),
            optim=dict(
                name="adamw", lr=3e-3, warmup_steps=488, weight_decay=3e-4, clip_norm=1.0,
            ),
            checkpoint=dict(every=2_000),
            eval=dict(every=4_882),
        ),
        epochs50=EPOCHS50,
        relation={"global_weight": 0.0, "dense_weight": 0.0, "relation_weight": 1.0},
        smooth_l1={"loss": "smooth_l1", "hidden": (2048,)},
        prototypes={"global_weight": 0.0, "dense_weight": 0.0, "prototype_weight": 1.0},
        tiny=TINY_RESNET | {
            "optim.warmup_steps": 0,
            "teacher_model": vit("vit_test", 8, 32) | dict(dtype="float32"),
            "teacher_head": mlp(16, 8, last="bias"), "out_dim": 12, "hidden": (16,),
            "dense_weight": 0.5, "relation_weight": 1.0, "prototype_weight": 0.1,
        },
    )  # fmt: skip
