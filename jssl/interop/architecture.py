"""Which encoder of jssl fits the weights of another library: a section `model` for a config.

Sizes are read from the tensors. What tensors do not show (heads, epsilons, activations) is read
from the config.json beside them; a key that is missing there has the default of the library.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from jssl import recipes
from jssl.config import UserError
from jssl.nn import resnet, text, vit


class Family(NamedTuple):
    """What a config.json of transformers may say about a model type.

    Attributes:
      defaults: {key: value that a missing key has}.
      required: {key: the only value with which jssl has such an encoder}.
    """

    defaults: Mapping[str, Any]
    required: Mapping[str, Any]


GELU = {"hidden_act": "gelu"}
VIT = Family({"num_attention_heads": 12, "layer_norm_eps": 1e-12}, GELU)
DINOV2 = Family({"num_attention_heads": 12, "layer_norm_eps": 1e-6, "use_swiglu_ffn": False}, GELU)
BEIT = Family(
    {
        "num_attention_heads": 12,
        "layer_norm_eps": 1e-12,
        "use_absolute_position_embeddings": False,
        "use_mean_pooling": True,
    },
    GELU
    | {
        "use_absolute_position_embeddings": True,
        "use_relative_position_bias": False,
        "use_shared_relative_position_bias": False,
        "use_mean_pooling": False,
    },
)
BERT = Family(
    {"num_attention_heads": 12, "layer_norm_eps": 1e-12},
    GELU | {"position_embedding_type": "absolute", "is_decoder": False},
)
FAMILIES: dict[str, Family] = {  # by `model_type`
    "vit": VIT,
    "vit_mae": VIT,
    "ijepa": VIT,
    "beit": BEIT,
    "data2vec-vision": BEIT,
    "dinov2": DINOV2,
    "dinov2_with_registers": DINOV2,
    "dinov3_vit": Family(
        {"num_attention_heads": 6, "layer_norm_eps": 1e-5, "image_size": 224, "hidden_act": "gelu"},
        {"rope_theta": 100.0, "proj_bias": True, "mlp_bias": True, "query_bias": True},
    ),
    "bert": BERT,
    "roberta": BERT,
    "gpt2": Family(
        {"n_head": 12, "layer_norm_epsilon": 1e-5},
        {
            "activation_function": "gelu_new",
            "scale_attn_weights": True,
            "scale_attn_by_inverse_layer_idx": False,
        },
    ),
    "resnet": Family(
        {},
        {
            "hidden_act": "relu",
            "downsample_in_first_stage": False,
            "downsample_in_bottleneck": False,
        },
    ),
}


def of_transformers(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Returns (layout, facts that `model_section` needs) of a config.json of transformers.

    Raises:
      UserError: jssl has no such encoder.
    """
    kind = str(config.get("model_type"))
    if kind not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise UserError(f"its model_type={kind!r} is no family of jssl; known are {known}")
    family = FAMILIES[kind]
    facts = dict(family.defaults) | {k: v for k, v in config.items() if v is not None}
    for key, value in family.required.items():
        if (stated := facts.get(key, value)) != value:
            raise UserError(f"its {key}={stated!r} is not in jssl, which has {value!r}")
    layout = f"hf_{kind}"
    if facts.get("use_swiglu_ffn"):
        layout += "_swiglu"
    heads = facts.get("num_attention_heads", facts.get("n_head"))
    eps = facts.get("layer_norm_eps", facts.get("layer_norm_epsilon"))
    return layout, {"heads": heads, "norm_eps": eps, "image_size": facts.get("image_size", 224)}


def of_timm(config: Mapping[str, Any], names: set[str]) -> tuple[str, dict[str, Any]]:
    """Returns (layout, facts) of a config.json of timm and the names of the tensors beside it."""
    name = str(config.get("architecture", ""))
    arguments = config.get("model_args") or {}
    if "quickgelu" in name:
        raise UserError(f"its architecture={name!r} has QuickGELU, which is not in jssl")
    layout = of_names(names)
    size = (config.get("pretrained_cfg") or {}).get("input_size", (3, 224, 224))[-1]
    facts: dict[str, Any] = {"image_size": arguments.get("img_size", size)}
    facts["heads"] = arguments.get("num_heads")
    facts["norm_eps"] = 1e-5 if layout.startswith("timm_eva") else 1e-6
    return layout, facts


SIGNATURES = (  # (a regular expression of one tensor, layout), for files without a config.json
    (r"(module\.)?blocks\.0\.mlp\.fc1_x\.weight", "timm_eva_swiglu"),
    (r"(module\.)?blocks\.0\.gamma_1", "timm_eva"),
    (r"(module\.)?blocks\.0\.attn\.qkv\.weight", "timm_vit"),
    (r"(module\.)?layer1\.0\.conv1\.weight", "resnet"),
    (r"(resnet\.)?encoder\.stages\.0\.layers\.0\.layer\.0\.convolution\.weight", "hf_resnet"),
    (r"(bert\.)?encoder\.layer\.0\.attention\.self\.query\.weight", "hf_bert"),
    (r"(transformer\.)?h\.0\.attn\.c_attn\.weight", "hf_gpt2"),
)


def of_names(names: set[str]) -> str:
    """Recognizes a layout by the names of its tensors; raises `UserError` if there is none."""
    for pattern, layout in SIGNATURES:
        if any(re.fullmatch(pattern, name) for name in names):
            return layout
    first = ", ".join(sorted(names)[:3])
    raise UserError(f"its tensors ({first}, ...) are of no family of jssl")


def model_section(
    shapes: Mapping[str, tuple[int, ...]], facts: Mapping[str, Any], patch: tuple[int, ...] = ()
) -> dict[str, Any]:
    """The section `model` of the encoder with these tensors.

    Args:
      shapes: {our name: shape}.
      facts: "heads", "norm_eps" and "image_size", where they are known.
      patch: the shape of the patches' kernel in the file, [D, C, p, p]; () without patches.

    Raises:
      UserError: jssl has no encoder of this size.
    """
    if patch:
        return vit_section(shapes, facts, patch)
    if "tokens/embedding" in shapes:
        return text_section(shapes, facts)
    return resnet_section(shapes)


def size_name(kind: str, sizes: Mapping[str, Any], size: Any, stated: str) -> str:
    """The name in a table of sizes; raises `UserError` if there is none."""
    for name, known in sizes.items():
        if known == size:
            return name
    names = ", ".join(name for name in sizes if not name.endswith("_test"))
    raise UserError(f"it is a {kind} of {stated}, a size that jssl does not have; it has {names}")


def depth_of(shapes: Mapping[str, Any]) -> int:
    """The number of transformer blocks."""
    return len({key.split("/")[1] for key in shapes if key.startswith("blocks/")})


def vit_section(
    shapes: Mapping[str, tuple[int, ...]], facts: Mapping[str, Any], patch: tuple[int, ...]
) -> dict[str, Any]:
    """See `model_section`."""
    dim = patch[0]
    depth = depth_of(shapes)
    heads = facts.get("heads")
    known = {name: size[:2] if heads is None else size for name, size in vit.SIZES.items()}
    size = (dim, depth) if heads is None else (dim, depth, heads)
    stated = f"width {dim}, {depth} blocks and {heads or 'unknown'} heads"
    name = size_name("ViT", known, size, stated)
    class_token = "cls_token" in shapes
    positions = shapes.get("pos_embed")
    side = patch[-1]
    image_size = facts.get("image_size") or 224
    if isinstance(image_size, list | tuple):  # height and width
        image_size = image_size[-1]
    image_size = int(image_size)
    if positions is not None:
        image_size = round((positions[1] - class_token) ** 0.5) * side
    hidden = shapes["blocks/0/mlp/fc2/kernel"][0]
    section = recipes.vit(
        name, side, image_size, positions="rotary" if positions is None else "learned"
    )
    return section | {
        "class_token": class_token,
        "pool": "cls" if class_token else "mean",
        "registers": shapes.get("reg_token", (1, 0, dim))[1],
        "norm_eps": facts.get("norm_eps") or 1e-6,
        "layer_scale": 1e-5 if "blocks/0/attn_scale" in shapes else 0.0,
        "feed_forward": "swiglu" if "blocks/0/mlp/gate/kernel" in shapes else "gelu",
        "mlp_width": 0 if hidden == 4 * dim else hidden,
        "key_bias": "blocks/0/attn/qkv/bias" in shapes,
    }


def text_section(shapes: Mapping[str, tuple[int, ...]], facts: Mapping[str, Any]) -> dict[str, Any]:
    """See `model_section`."""
    dim = shapes["tokens/embedding"][1]
    depth = depth_of(shapes)
    kind = "bert" if "type_embed" in shapes else "gpt"
    heads = facts.get("heads") or max(dim // 64, 1)
    stated = f"width {dim}, {depth} blocks and {heads} heads"
    name = size_name(kind.upper(), text.SIZES, (kind, dim, depth, heads), stated)
    section = recipes.text(name, shapes["pos_embed"][0], init=kind)
    eps = facts.get("norm_eps")
    return section | ({"norm_eps": eps} if eps else {})


def resnet_section(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """See `model_section`."""
    numbers = [re.match(r"layer(\d+)_(\d+)/", key) for key in shapes]
    blocks = {(int(n[1]), int(n[2])) for n in numbers if n}
    stages = {stage for stage, _ in blocks}
    depths = tuple(sum(stage == other for other, _ in blocks) for stage in sorted(stages))
    block = resnet.Bottleneck if "layer1_0/conv3/kernel" in shapes else resnet.BasicBlock
    stated = f"stages {depths} of {block.__name__} blocks"
    name = size_name("ResNet", resnet.SIZES, (block, depths), stated)
    kernel, _, _, width = shapes["conv1/kernel"]
    stems = {size: stem for stem, (size, _) in resnet.STEMS.items()}
    if kernel not in stems:
        raise UserError(f"its first convolution is {kernel}x{kernel}; jssl has {tuple(stems)}")
    return recipes.resnet(name, stems[kernel]) | {"width": width}


MUST_AGREE = {  # keys of a section that weights decide; the others may differ
    "vit": (
        "class_token", "registers", "norm_eps", "feed_forward", "mlp_width", "key_bias",
    ),
    "text": ("norm_eps",),
    "resnet": ("stem", "width"),
}  # fmt: skip


def differences(file: Mapping[str, Any], section: Mapping[str, Any]) -> list[str]:
    """The keys in which the section `model` of a config does not fit that of a file."""
    if file["name"] != section.get("name"):
        return ["name"]
    keys = list(MUST_AGREE[recipes.family(file["name"])])
    wrong = [key for key in keys if section.get(key, file[key]) != file[key]]
    if bool(section.get("layer_scale", 0.0)) != bool(file.get("layer_scale", 0.0)):
        wrong.append("layer_scale")
    if "rotary" in (file.get("positions"), section.get("positions")):
        if file.get("positions") != section.get("positions"):
            wrong.append("positions")
    return wrong


def as_flags(section: Mapping[str, Any], keys: list[str], name: str = "model") -> str:
    """Formats keys of a section of this name, which describes an encoder, for the command line."""
    return " ".join(f"--config.{name}.{key}={section[key]}" for key in keys)
