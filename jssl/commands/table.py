"""The commands of ``jssl`` and their flags.

Nothing here imports JAX, so that ``jssl --help`` is fast. The work of a command is in the module
`Command.module` of this folder, as ``run(args, overrides)``.
"""

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

Args = dict[str, Any]  # {flag: value}, for all flags of the command
Overrides = dict[str, str]  # {"optim.lr": "0.3"}


class Flag(NamedTuple):
    """A flag ``--name=VALUE``, or ``--name`` if the default is False.

    Attributes:
      help: what it does.
      default: its value if it is not given. A flag with the default () may be given several times.
    """

    help: str
    default: str | bool | tuple[str, ...] = ""


class Command(NamedTuple):
    """A command, with its flags.

    Attributes:
      help: what it does, in one line.
      flags: {name: flag}.
      module: the module of `jssl.commands` that does it.
      function: its function, ``run(args, overrides) -> JSON values``.
      device: whether it needs a device.
    """

    help: str
    flags: dict[str, Flag]
    module: str
    function: str = "run"
    device: bool = True

    def load(self) -> Callable[[Args, Overrides], dict[str, Any]]:
        """Imports the function."""
        return getattr(importlib.import_module(f"jssl.commands.{self.module}"), self.function)


STEP = Flag("checkpoint: best (by kNN during training), last, or a step", "last")
CONFIG = Flag("recipe: simclr_cifar10[:variant] of jssl, or path/to/recipe.py[:variant]")
WORKDIR = Flag("folder of the run")
WORKDIRS = Flag("folder of a run; may be given several times", ())
PATH = Flag("a folder with your own modules (method, source, ...); may be given several times", ())
RECIPE = {"config": CONFIG, "path": PATH}
MODULES = {  # of a command that builds the run of a workdir
    "config": Flag("recipe of the run, if the run uses modules of your own"),
    "method": Flag("a module of your own that the run uses; may be given several times", ()),
    "path": PATH,
}
COMMANDS = {
    "train": Command(
        "pretrains a recipe; continues from the last checkpoint in --workdir, if there is one",
        RECIPE
        | {
            "workdir": WORKDIR,
            "extend": Flag("train the run in --workdir for more config.steps", False),
            "changed-data": Flag("continue although the data set has changed", False),
        },
        "train",
    ),
    "eval": Command(
        "evaluates the encoder of a workdir",
        {
            "workdir": WORKDIR,
            "protocol": Flag(
                "knn (default), linear, lowshot, finetune; perplexity, generate, fill-mask for "
                "text; generation for images; or a module of your own with a function evaluate",
                "knn",
            ),
            "step": STEP,
            "random-init": Flag("evaluate the encoder as it was before training", False),
            "out": Flag("of finetune: folder for the classifier that it makes"),
            "format": Flag("of --out: safetensors (default), timm or hf", "safetensors"),
        }
        | MODULES,
        "evaluate",
    ),
    "embed": Command(
        "writes the features of a data set to one file; continues where it was stopped",
        {
            "workdir": WORKDIR,
            "out": Flag("file to write, .npz or .parquet"),
            "projector": Flag(
                "write the files of TensorBoard's projector instead, to the folder --out or to "
                "WORKDIR/tensorboard",
                False,
            ),
            "examples": Flag("of --projector: largest number of examples (2000 if not given)"),
            "step": STEP,
        }
        | MODULES,
        "embed",
    ),
    "sample": Command(
        "writes images that a generative method draws, as PNG files",
        {
            "workdir": WORKDIR,
            "n": Flag("number of images", "64"),
            "out": Flag("folder to write"),
            "truncation": Flag(
                "largest absolute value of a latent (BigGAN's truncation trick); 0: off", "0"
            ),
            "step": STEP,
        }
        | MODULES,
        "sample",
    ),
    "export": Command(
        "writes the encoder of a workdir as a folder that other libraries load",
        {
            "workdir": WORKDIR,
            "format": Flag("timm, hf (transformers), torchvision, safetensors, stablehlo, onnx"),
            "out": Flag("folder to write"),
            "step": STEP,
            "part": Flag(
                "encoder, the trained one, or teacher; default: the one that is evaluated"
            ),
            "heads": Flag("with MAE's decoder, or the layers that predict tokens (hf)", False),
            "verify": Flag("load the folder in that library and compare the outputs", False),
        },
        "export",
    ),
    "compare": Command(
        "shows what differs between runs: their configs, and what they reached",
        {"workdir": WORKDIRS},
        "compare",
        device=False,
    ),
    "report": Command(
        "writes one HTML page about runs: curves, pictures, neighbors, a map of the features",
        {
            "workdir": WORKDIRS,
            "out": Flag("file to write; default: report.html in the first workdir"),
            "examples": Flag("largest number of examples of a split to embed", "2000"),
        }
        | MODULES,
        "report",
    ),
    "bench": Command(
        "measures the speed of a recipe's training step on this machine, with random data",
        RECIPE
        | {
            "steps": Flag("number of timed steps", "30"),
            "vocab": Flag("number of token ids, for recipes of text"),
        },
        "bench",
    ),
    "plan": Command(
        "compiles a recipe's training step for other hardware: does it fit, how fast is it",
        RECIPE
        | {
            "topology": Flag("TPUs: v5e:16x16, v5p:4x4x8, ...; GPUs: h100:16, ..."),
            "devices": Flag("number of local devices, without --topology", "1"),
            "examples": Flag("size of the data set, for methods that keep a bank of it"),
            "vocab": Flag("number of token ids, for recipes of text"),
        },
        "plan",
    ),
    "doctor": Command(
        "checks versions, devices, links, clocks, --workdir and the data of --config",
        RECIPE | {"workdir": WORKDIR},
        "doctor",
    ),
    "data check": Command(
        "looks at a data set: sizes, depth, damage, duplicates, labels; gives advice",
        RECIPE
        | {
            "data": Flag("folder of images or of text; default: what --config names"),
            "examples": Flag(
                "largest number of examples of a split to read; default: 20000 images, "
                "or 1000000 documents"
            ),
        },
        "data_check",
        device=False,
    ),
    "data pack": Command(
        "decodes or tokenizes the data set of a recipe once, into --out",
        RECIPE | {"out": Flag("folder to write")},
        "data",
        "run_pack",
        device=False,
    ),
    "data tokenizer": Command(
        "trains a byte-level BPE tokenizer on the text of a recipe",
        RECIPE
        | {"out": Flag("file to write"), "vocab": Flag("largest number of token ids", "8192")},
        "data",
        "run_tokenizer",
        device=False,
    ),
    "data prepare": Command(
        "makes a data set of TFDS readable without TensorFlow",
        {
            "name": Flag("data set of TFDS, such as cifar10"),
            "dir": Flag("folder of data sets; default: the variable TFDS_DATA_DIR"),
        },
        "data",
        "run_prepare",
        device=False,
    ),
    "list": Command(
        "lists methods, recipes, encoders, sources, optimizers and protocols",
        {},
        "listing",
        device=False,
    ),
    "config": Command(
        "prints every key of a recipe: value, origin, type, meaning",
        RECIPE | {"from": Flag("print the section model that fits these weights instead")},
        "show_config",
        device=False,
    ),
    "demo": Command(
        "pretrains on handwritten digits and measures the encoder (minutes on a CPU)",
        {
            "workdir": WORKDIR._replace(default="runs/demo"),
            "config": CONFIG._replace(default="simclr_digits"),
            "seed": Flag("seed of the run", "0"),
        },
        "demo",
    ),
}
