"""jssl train --config=configs/relative_patch_imagenet.py --config.data.dir=DATA --workdir=runs/rel

Relative patch location on ImageNet-1k with the settings of open-mmlab/mmselfsup
(relative-loc_resnet50_8xb64-steplr-70e_in1k.py): ResNet-50, batch 512, 70 epochs of SGD, rate .2, a
tenth at epochs 30 and 50, 5 epochs of warm-up, decay 1e-4, two of three images gray; linear probe
40.4 %, of the best layer 51.2 %. :paper drops colors as Doersch et al. Differences: square crops of
half of the image or more and not of 255 of 292 pixels, no dropout and no larger decay in the head,
the warm-up starts at 0 and not at .02; see also jssl/methods/relative_patch.py.
"""

from jssl.recipes import TINY_RESNET, crop_and_flip, mlp, recipe, resnet


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="relative_patch",
            steps=175_159,  # 70 epochs of 1,281,167
            batch_size=512,
            tile=64, color="keep",
            data=dict(source="tfds", name="imagenet2012", max_side=256, workers=16),
            model=resnet("resnet50", "imagenet", init="fan_out"),
            head=mlp(4096, 8, last="bias"),
            augment=crop_and_flip(255, (0.5, 1.0)) | dict(crop_ratio=(1.0, 1.0), gray_prob=0.66),
            optim=dict(
                name="sgd", lr=0.2, warmup_steps=12_511, weight_decay=1e-4, no_decay=(),
                schedule="steps", drop_at=(30 / 70, 50 / 70),
            ),
            eval=dict(split="validation", size=224, crop_fraction=0.875),
        ),
        paper={"color": "drop", "augment.gray_prob": 0.0},
        tiny=TINY_RESNET | {
            "tile": 8, "color": "project", "head.features": (16, 8), "optim.warmup_steps": 1,
            "eval.size": 32,
        },
    )  # fmt: skip
