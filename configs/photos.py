"""jssl train --config=configs/photos.py --config.data.path=MY/PHOTOS --workdir=runs/photos

SimCLR on a folder of your own images, on a laptop: ResNet-18 at 96 pixels in float32, batch 64, no
labels and no validation split. It runs for 100 epochs; --config.steps='300 epochs' is worth its
time for a few thousand images. On a GPU add --config.model.dtype=bfloat16 and a larger batch; with
labels in folders add --config.eval.every='10 epochs' and a folder for --config.eval.split=test.

Not published: the settings are those of lightly's CIFAR-10 benchmark (SGD, rate .06 for 128
examples, no warm-up, temperature .5) with the crops and the blur of its Imagenette benchmark.
"""

from jssl.recipes import LIGHTLY, TINY_RESNET, mlp, recipe, resnet, simclr_augment


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="simclr",
            steps="100 epochs",
            batch_size=64,
            loss="nt_xent",
            temperature=0.5,
            data=dict(source="folder", max_side=128, workers=2),
            model=resnet("resnet18", "imagenet", init="fan_out") | dict(dtype="float32"),
            head=mlp(512, 128, last="bn"),
            augment=simclr_augment(96, (0.2, 1.0), (0.4, 0.4, 0.4, 0.1), blur=0.5),
            optim=LIGHTLY,
            checkpoint=dict(every=200),
            log=dict(every=10),
        ),
        tiny=TINY_RESNET | {"head.features": (16, 8)},
    )
