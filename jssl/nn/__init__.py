"""Networks: encoders by name, and the check that every named choice in a config goes through."""

import importlib
import inspect

from jssl.config import UserError, call_with_section, suggest

# Each has SIZES {name: ...} and build(*, name, ...).
FAMILIES = ("jssl.nn.resnet", "jssl.nn.vit", "jssl.nn.text")


def encoder(section, vocab: int = 0, packed: bool = True):
    """The encoder that a config's `model` section describes.

    `section["name"]` picks the family ("resnet18", "vit_b", "bert_base", ...), and the section is
    bound to that family's `build`, whose signature is the schema. Only text families take `vocab`,
    the number of its tokens' ids, and `packed`, which is `config.data.pack_documents`. The encoder
    is a Linen module called as ``encoder(images [B, H, W, C], train)``, or ``encoder(tokens [B, L],
    train, segment)``; ``encoder.features(output)``, for text ``features(output, segment)``, is
    float32 [B, D]. Raises `UserError` for a name that no family has, and for what `build` refuses.
    """
    if "name" not in section:
        raise UserError("config.model.name is missing; add it to the recipe")
    modules = [importlib.import_module(family) for family in FAMILIES]
    builders = {name: module.build for module in modules for name in module.SIZES}
    name = section["name"]
    kin = [known for known in builders if known[:3] == str(name)[:3]]  # all resnets, all vits ...
    build = builders[check_choice("name", name, kin or builders)]
    text = "vocab" in inspect.signature(build).parameters
    given = {"vocab": vocab, "packed": packed} if text else {}
    return call_with_section(build, section, "model", **given)


def check_choice(key: str, value, choices):
    """`value`, if it is one of `choices`; else a `UserError` that names the nearest one."""
    if value not in choices:
        raise UserError(f"model.{key}={value!r} is not known; {suggest(value, choices)}")
    return value
