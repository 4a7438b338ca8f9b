"""jssl train --config=configs/jigsaw_imagenet.py --config.data.dir=DATA --workdir=runs/jigsaw_in1k

Jigsaw puzzles of ImageNet-1k with the settings of facebookresearch/vissl (jigsaw_8gpu_resnet.yaml):
ResNet-50, 3 x 3 tiles of 64 pixels, batch 256, 105 epochs of SGD, rate .1, a tenth at epochs 30,
60, 90 and 100, 5 epochs of warm-up, decay 1e-4 of every parameter, two of three images gray; linear
probe 48.57 % with 100 permutations, 46.73 % with 2,000 (:perms2000; MODEL_ZOO.md). Differences:
square crops of half of the image or more and not of its shorter side, the warm-up starts at 0 and
not at .025; see also jssl/methods/jigsaw.py.
"""

from jssl.recipes import TINY_RESNET, crop_and_flip, mlp, recipe, resnet


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="jigsaw",
            steps=525_478,  # 105 epochs of 1,281,167
            batch_size=256,
            grid=3, tile=64, num_permutations=100,
            data=dict(source="tfds", name="imagenet2012", max_side=256, workers=16),
            model=resnet("resnet50", "imagenet", init="fan_out"),
            patch_head=mlp(1000, last="bn"),
            head=mlp(100, last="bias"),
            augment=crop_and_flip(255, (0.5, 1.0)) | dict(crop_ratio=(1.0, 1.0), gray_prob=0.66),
            optim=dict(
                name="sgd", lr=0.1, lr_scaling="linear", warmup_steps=25_022, weight_decay=1e-4,
                no_decay=(),
                schedule="steps", drop_at=(30 / 105, 60 / 105, 90 / 105, 100 / 105),
            ),
            eval=dict(split="validation", size=224, crop_fraction=0.875),
        ),
        perms2000={"num_permutations": 2000, "head.features": (2000,)},
        tiny=TINY_RESNET | {
            "tile": 8, "num_permutations": 12, "head.features": (12,), "patch_head.features": (16,),
            "optim.warmup_steps": 1, "eval.size": 32,
        },
    )  # fmt: skip
