"""jssl train --config=configs/simclr_imagenet.py --config.data.dir=DATA --workdir=runs/simclr_in1k

SimCLR on ImageNet-1k with the settings of google-research/simclr's README (its command for
ImageNet; run.py:54, 206): ResNet-50, batch 4096, 100 epochs, LARS .3 x batch / 256, weight decay
1e-4, a head of three layers, temperature .1; linear probe about 64.5 % (README). :paper has the
paper's decay of 1e-6 and head of two layers (Chen et al. 2020, sections 2.1 and 2.2), for which no
figure is cited here. As there, pixels stay in 0..1 and are not standardized.
"""

from jssl.recipes import recipe


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="simclr",
            steps=31_278,  # 100 epochs of 1,281,167
            batch_size=4096,
            loss="nt_xent", temperature=0.1,
            data=dict(source="tfds", name="imagenet2012", max_side=256, workers=16),
            model=dict(
                name="resnet50", stem="imagenet", width=64, zero_init_residual=True, init="lecun",
                dtype="bfloat16",
            ),
            head=dict(
                features=(2048, 2048, 128), norm=True, last_norm=True, last_scale=True,
                last_bias=False, activation="relu", init="normal001",
            ),
            augment=dict(
                mode="fused", size=224, crop_scale=(0.08, 1.0), crop_ratio=(3 / 4, 4 / 3),
                flip_prob=0.5, jitter_prob=0.8, brightness=0.8, contrast=0.8, saturation=0.8,
                hue=0.2,
                gray_prob=0.2, blur_prob=0.5, blur_sigma=(0.1, 2.0), blur_kernel="tenth",
                solarize_prob=0.0,
                mean=(0.0,), std=(1.0,),
            ),
            optim=dict(
                name="lars", lr=0.3, lr_scaling="linear", warmup_steps=3_127, weight_decay=1e-4
            ),
            eval=dict(split="validation", crop_fraction=0.875),
        ),
        paper={"head.features": (2048, 128), "optim.weight_decay": 1e-6},
        tiny={
            "steps": 6, "batch_size": 16, "accumulate": 2, "data.source": "digits",
            "data.split": "train[:3%]", "data.max_side": 32, "data.workers": 0, "augment.size": 24,
            "augment.crop_scale": (0.3, 1.0),
            "model.name": "resnet_test", "model.width": 8, "model.dtype": "float32",
            "head.features": (16, 8), "optim.warmup_steps": 1, "checkpoint.every": 2,
            "eval.split": "test[:5%]", "log.every": 1,
        },
    )  # fmt: skip
