"""Arguments of a wrong shape or dtype fail while a function is traced, with names and shapes.

Without the checks, nearly all of these calls broadcast, or compute something else without an error.
"""

import ast
import functools
import re
import types

import chex
import jax
import jax.numpy as jnp
import pytest
from conftest import ROOT

from jssl import losses, metrics, ops
from jssl.nn import bank, biggan, codebook, heads, prototypes
from jssl.nn.spectral_norm import spectral_norm
from jssl.ops import require_arrays
from jssl.transforms import (
    augment,
    color,
    corrupt,
    masking,
    multiblock,
    pretext,
    quarter_turns,
    views,
)

RNG = jax.random.key(0)
AUGMENT = {
    "mode": "fused",
    "size": 8,
    "crop_scale": (0.2, 1.0),
    "crop_ratio": (0.75, 1.25),
    "flip_prob": 0.5,
    "jitter_prob": 0.5,
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.4,
    "hue": 0.1,
    "gray_prob": 0.2,
    "blur_prob": 0.5,
    "blur_sigma": (0.1, 2.0),
    "solarize_prob": 0.2,
    "mean": (0.5,),
    "std": (0.5,),
    "dtype": "float32",
}
VIEW = types.SimpleNamespace(**AUGMENT)
CENTER = {"size": 8, "crop": 1.0, "mean": (0.5,), "std": (0.5,), "dtype": "float32"}
TEACHER = types.SimpleNamespace(
    centering="center",
    center_momentum=0.9,
    teacher_temp_warmup_steps=3,
    teacher_temp_start=0.04,
    teacher_temp_end=0.07,
)


def shaped(dtype):
    return lambda *shape: jax.ShapeDtypeStruct(shape, dtype)


floats = shaped(jnp.float32)
ints = shaped(jnp.int32)
uint8s = shaped(jnp.uint8)
bools = shaped(jnp.bool_)


def view_params(batch):
    return jax.eval_shape(functools.partial(augment.sample_params, VIEW), RNG, ints(batch, 2))


def jitter(x, params):
    active = ("brightness", "hue")
    return color.jitter(x, params, active, color.rotate_gray, lambda x: x, lambda x: x)


@functools.wraps(heads.MLP.__call__)
def head(x):
    mlp = heads.MLP((4, 2), True, False, False, True, "relu", "torch", jnp.dtype("float32"))
    return mlp.init(RNG, x, train=False)


@functools.wraps(biggan.Head.__call__)
def judge(features, labels):
    head = biggan.Head(0, False, jax.nn.initializers.zeros)
    return head.init(RNG, features, labels, train=False)


@functools.wraps(biggan.Generator.__call__)
def generate(z, labels):
    zeros = jax.nn.initializers.zeros
    net = biggan.Generator(32, 3, 4, 2, False, 0, 2, 0, False, zeros, jnp.dtype("float32"))
    return net.init(RNG, z, labels, train=False)


def blocks(target_valid):
    return multiblock.Blocks(ints(2, 5), bools(2, 5), ints(2, 4, 6), target_valid)


VALUES = "must be float [B, D]; given: "
CASES = [  # function, arguments, parts of the message
    (losses.cross_entropy, (floats(4, 3), ints(4), floats(4, 1)), "weight must be [N]", "[4, 1]"),
    (losses.cross_entropy, (floats(4, 3), floats(4)), "answer must be int [N]", "float32[4]"),
    (losses.soft_cross_entropy, (floats(4, 3), floats(3)), "target must be float [B, K]", "[3]"),
    (losses.soft_cross_entropy, (floats(4, 3), floats(1, 3)), "target must", "float32[1, 3]"),
    (
        losses.cross_view_cross_entropy,
        (floats(4, 3), None, floats(4, 1)),
        "targets must be float [V, K]",
        "logits float32[4, 3], local_logits NoneType[], targets float32[4, 1]",
    ),
    (
        losses.cross_view_cross_entropy,
        (floats(4, 3), floats(8, 1), floats(4, 3)),
        "local_logits must be float [L, K]",
    ),
    (
        losses.language.check,
        (floats(2, 12, 5), floats(9, 5), ints(2, 12), ints(1, 12), 4),
        "segment must be int [B, L]",
        "segment int32[1, 12]",
    ),
    (
        losses.language.check,
        (floats(2, 12, 5), floats(9, 5), ints(2, 12), ints(2, 12), 5),
        "chunk=5 must divide L",
    ),
    (losses.vocab_logits, (floats(2, 3), floats(9, 5)), "table must be float [V, D]", "[9, 5]"),
    (losses.negatives_logsumexp, (floats(4, 3), floats(6, 3), ints(1, 2), 0.1), "skip must be int"),
    (losses.positive_and_negatives, (floats(4, 8), floats(3, 8), 0.1), f"z_b {VALUES}"),
    (losses.nt_xent, (floats(4, 8), floats(3, 8), 0.1), f"z_b {VALUES}", "z_b float32[3, 8]"),
    (losses.dcl, (floats(4, 8), floats(5, 8), 0.1), f"z_b {VALUES}", "z_b float32[5, 8]"),
    (losses.info_nce, (floats(4, 8), floats(1, 8), 0.1), f"k {VALUES}", "k float32[1, 8]"),
    (losses.info_nce, (floats(4, 8), floats(4, 8), 0.1, floats(8)), "queue must be float [N, D]"),
    (losses.koleo, (floats(4),), "x must be float [N, D]", "float32[4]"),
    (losses.hinge_discriminator, (floats(4, 1), floats(4)), "real must be float [N]", "[4, 1]"),
    (losses.hinge_generator, (floats(4, 1),), "fake must be float [M]", "float32[4, 1]"),
    (quarter_turns.quarter_turns, (floats(2, 4, 5, 3),), "images must be [B, H, H, C]"),
    (quarter_turns.rotation_loss, (floats(2, 4), floats(6)), "turned must be float [T, 4]"),
    (spectral_norm, (floats(3, 4), floats(3)), "u must be float [K]", "float32[3]"),
    (judge, (floats(4), None), "features must be float [B, D]", "float32[4]"),
    (generate, (floats(4), None), "z must be float [B, D]", "float32[4]"),
    (losses.gram_loss, (floats(4), floats(4)), "x must be float [B, N, D]", "float32[4]"),
    (losses.sigreg, (RNG, floats(2, 4, 5, 8), 3), "z must be float [V, B, D]", "[2, 4, 5, 8]"),
    (losses.epps_pulley, (floats(4),), "x must be float [..., B, M]", "float32[4]"),
    (losses.cosine_distance, (floats(4, 8), floats(1, 8)), "target must be float [..., D]"),
    (losses.whitened_smooth_l1, (floats(4, 8), floats(8)), "target must be float [..., D]"),
    (losses.similarity_preserving, (floats(4, 8), floats(1, 3)), "target must be float [B, E]"),
    (losses.barlow_twins, (floats(4, 8), floats(4, 1), 0.1), f"z_b {VALUES}", "z_b float32[4, 1]"),
    (ops.sinkhorn, (floats(4, 3), 0.1, 3, floats(4, 1)), "weight must be [B]", "[4, 1]"),
    (metrics.psnr, (floats(2, 4, 4, 3), floats(2, 4, 4, 1)), "targets must be float [B, H, W, C]"),
    (metrics.alignment, (floats(4, 8), floats(1, 8)), "z_b must be float [N, D]", "[1, 8]"),
    (losses.off_diagonal_squares, (floats(4, 8), floats(4, 1)), f"b {VALUES}", "b float32[4, 1]"),
    (losses.vicreg, (floats(4, 8), floats(1, 8), 1, 1, 1), f"z_b {VALUES}", "z_b float32[1, 8]"),
    (
        losses.masked_mse,
        (floats(2, 4, 6), floats(2, 4, 6), floats(4)),
        "mask must be [B, N]",
        "prediction float32[2, 4, 6], target float32[2, 4, 6], mask float32[4]",
    ),
    (losses.masked_l1, (floats(2, 4, 6), floats(2, 4, 1), floats(2, 4)), "target must be float [B"),
    (
        losses.discretized_logistic,
        (floats(2, 4, 4, 3), floats(2, 4, 4, 3), floats(3)),
        "log_scale must be float [B, H, W, C]",
    ),
    (
        losses.dequantized_gaussian,
        (RNG, floats(2, 4, 4, 3), floats(2, 4, 4, 1), floats(2, 4, 4, 3)),
        "mean must be float [B, H, W, C]",
    ),
    (losses.kl_standard_normal, (floats(4, 8), floats(8)), "log_variance must be float [...]"),
    (losses.byol_loss, (floats(4, 8), floats(1, 8)), "z must be float [B, D]", "z float32[1, 8]"),
    (augment.turned, (uint8s(4, 8, 9, 3), ints(1, 2)), "valid must be int [B, 2]", "int32[1, 2]"),
    (augment.sample_params, (VIEW, RNG, ints(4, 1)), "valid must be int [B, 2]", "int32[4, 1]"),
    (augment.apply_exact, (VIEW, ints(4, 8, 8, 3), view_params(4)), "image must be uint"),
    (augment.apply_fused, (VIEW, uint8s(4, 8, 8, 3), view_params(1)), "order must be int [B, 4]"),
    (augment.view(**AUGMENT), (RNG, uint8s(4, 8, 8, 3), ints(1, 2)), "valid must be int"),
    (augment.view(**AUGMENT), (RNG, ints(4, 8, 8, 3), ints(4, 2)), "image must be uint"),
    (augment.center(**CENTER), (uint8s(4, 8, 8, 3), ints(1, 2)), "valid must be int [B, 2]"),
    (
        augment.resize_weights,
        (floats(4), floats(1), floats(4), floats(4), 9, 8),
        "extent must be [B]",
        "start float32[4], extent float32[1]",
    ),
    (augment.blur_matrix, (floats(4), bools(1), 8, 2), "on must be bool [B]", "on bool[1]"),
    (jitter, (floats(4, 8, 3, 8), view_params(1)), "order must be int [B, 4]", "x float32[4, 8, 3"),
    (color.rotate_hsv, (floats(2, 6, 6, 3), floats(2, 1, 1, 1)), "x must be float [B, h, 3, w]"),
    (color.rotate_gray, (floats(2, 6, 6, 3), floats(2, 1, 1, 1)), "x must be float [B, h, 3, w]"),
    (
        corrupt.add_noise,
        (RNG, floats(4, 4, 3), "gaussian", 0.1),
        "images must be float [B, H, W, C]",
    ),
    (corrupt.band_weight, (floats(2, 4, 4), 1, 10.0), "hole must be bool [B, H, W]"),
    (masking.cover, (floats(2, 5, 3), ints(3), ints(), 8), "height must be [...] or []"),
    (masking.lowest_k, (floats(4, 9), ints(1)), "count must be int [B] or []", "int32[1]"),
    (masking.beit_mask, (RNG, 4, 4, ints(1), 1, 8), "count must be int [B] or []", "int32[1]"),
    (masking.mask_to_indices, (bools(2, 4, 9), 3), "mask must be bool [B, N]", "bool[2, 4, 9]"),
    (multiblock.Blocks.rows, (blocks(bools(3)),), "target_valid must be bool [T]", "bool[3]"),
    (multiblock.context_mask, (RNG, bools(2, 3, 16), 4, ints(2, 20), 1), "size must be int [2]"),
    (pretext.rotations, (floats(2, 8, 6, 3),), "images must be [B, H, H, C]", "[2, 8, 6, 3]"),
    (pretext.random_tiles, (RNG, floats(2, 8, 6, 3), 2, 3), "images must be [B, H, H, C]"),
    (pretext.take_tiles, (floats(2, 4, 3, 3, 1), ints(4)), "order must be int [B, T]", "int32[4]"),
    (pretext.drop_colors, (RNG, floats(2, 3, 3, 3)), "tiles must be float [B, T, h, w, C]"),
    (pretext.project_colors, (floats(2, 4, 4, 1),), "images must be float [..., 3]"),
    (pretext.shifted_windows, (RNG, floats(2, 8, 6, 3), 4, 2), "images must be [B, H, H, C]"),
    (pretext.seen_part, (ints(2), 4), "offset must be int [B, 2]", "int32[2]"),
    (views.split_views, (floats(5, 8),), "5 is not divisible by 2", "x (5, 8)"),
    (head, (floats(2, 5, 8),), "x must be float [B, D]", "float32[2, 5, 8]"),
    (
        bank.write_bank,
        ({"a": floats(9, 8), "seen": floats(9)}, ints(4), {"a": floats(8)}),
        "embeddings['a'] must be float [B, width]",
        "index int32[4], bank['a'] float32[9, 8], embeddings['a'] float32[8]",
    ),
    (bank.cluster_loss, ({"global": floats(7, 5)}, ints(3)), "logits_by_size['global'] (7, 5)"),
    (
        codebook.Codebook(5, 3, 0.9, 0.25, 0.0).update,
        ({}, floats(8, 3), ints(2, 4), RNG),
        "ids must be int [N]",
    ),
    (bank.cluster_usage, (ints(4, 1), 5), "labels must be int [B]", "int32[4, 1]"),
    (prototypes.prototype_logits, ({"direction": floats(6, 8)}, floats(8)), "z must be float"),
    (
        prototypes.teacher_assignments,
        (TEACHER, floats(4, 6), floats(4, 1), ints()),
        "center must be float [K]",
        "logits float32[4, 6], center float32[4, 1], weight NoneType[]",
    ),
    (prototypes.update_center, (TEACHER, floats(6), floats(1, 6)), "mean must be float [K]"),
    (prototypes.weighted_mean, (floats(4, 6), floats(4, 1)), "weight must be [N]", "float32[4, 1]"),
]


def program(function, arguments):
    """The jaxpr of a call; shapes of the arguments stand for zeros."""

    def zeros(x):
        return jnp.zeros(x.shape, x.dtype) if isinstance(x, jax.ShapeDtypeStruct) else x

    jaxpr = jax.make_jaxpr(lambda: function(*jax.tree.map(zeros, arguments)))()
    return re.sub("0x[0-9a-f]+", "", str(jaxpr))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0].__qualname__)
def test_wrong_arguments_are_named(case):
    function, arguments, *parts = case
    with pytest.raises(AssertionError) as error:
        program(function, arguments)
    for part in parts:
        assert part in str(error.value)


def test_every_check_has_a_case():
    def checked(body, prefix):
        for node in body:
            if isinstance(node, ast.ClassDef):
                yield from checked(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.FunctionDef):
                calls = {ast.unparse(x.func) for x in ast.walk(node) if isinstance(x, ast.Call)}
                if calls & {"require_arrays", "chex.assert_is_divisible"}:
                    yield prefix + node.name

    modules = [path for path in (ROOT / "jssl").rglob("*.py") if path.name != "ops.py"]
    found = {name for path in modules for name in checked(ast.parse(path.read_text()).body, "")}
    assert len(found) > 30
    assert found <= {function.__qualname__ for function, *_ in CASES}


LEGAL = [  # what may not be refused: any width of a dtype, None, scalars, further dimensions
    (losses.cross_entropy, (shaped(jnp.bfloat16)(4, 3), uint8s(4))),
    (losses.cross_entropy, (floats(4, 3), shaped(jnp.int8)(4), bools(4))),
    (losses.cross_view_cross_entropy, (floats(4, 3), floats(6, 3), floats(4, 3))),
    (losses.masked_mse, (floats(2, 4, 6), floats(2, 4, 6), bools(2, 4))),
    (losses.epps_pulley, (floats(2, 3, 4, 5),)),
    (
        jax.vmap(losses.vicreg, (0, 0, None, None, None)),
        (floats(5, 4, 8), floats(5, 4, 8), 1, 1, 1),
    ),
    (augment.view(**AUGMENT), (RNG, shaped(jnp.uint16)(4, 8, 9, 1), ints(4, 2))),
    (masking.cover, (floats(2, 5, 3), ints(5, 3), ints(), 8)),
    (masking.lowest_k, (floats(4, 9), 3)),
    (masking.lowest_k, (floats(4, 9), ints())),
    (masking.lowest_k, (floats(4, 9), ints(4))),
    (views.split_views, (ints(6),)),
    (bank.cluster_loss, ({"global": floats(8, 5), "local": floats(12, 5)}, ints(4))),
]


@pytest.mark.parametrize("case", LEGAL, ids=lambda case: case[0].__qualname__)
def test_legal_arguments_pass_and_checks_are_not_in_the_program(case):
    checked = program(*case)
    chex.disable_asserts()
    try:
        assert program(*case) == checked
    finally:
        chex.enable_asserts()


@pytest.mark.parametrize(
    ("shapes", "is_right"),
    [
        ({"x": ((2, 3), "[A, B]"), "y": ((3, 2), "[B, A]")}, True),
        ({"x": ((2, 3), "[A, B]"), "y": ((2, 3), "[B, A]")}, False),
        ({"x": ((2, 2), "[A, A]")}, True),
        ({"x": ((2, 3), "[A, A]")}, False),
        ({"x": ((2, 4, 5, 3), "[A, ..., 3]"), "y": ((4, 5), "[...]")}, True),
        ({"x": ((2, 4, 5, 3), "[A, ..., 3]"), "y": ((5, 4), "[...]")}, False),
        ({"x": ((2, 3), "[A, ..., 3]"), "y": ((), "[...]")}, True),
        ({"x": ((3,), "[A, ..., 3]")}, False),
        ({"x": ((), "[]")}, True),
        ({"x": ((1,), "[]")}, False),
        ({"x": ((), "[A] or []")}, True),
        ({"x": ((2, 1), "[A] or []")}, False),
        ({"x": ((0, 12), "float [A, 12]")}, True),
        ({"x": ((2, 1), "float [A, 12]")}, False),
    ],
)
def test_shapes_are_compared_by_name(shapes, is_right):
    arguments = {name: (jnp.zeros(shape), dims) for name, (shape, dims) in shapes.items()}
    if is_right:
        require_arrays(**arguments)
    else:
        with pytest.raises(AssertionError, match="must be .*; given: x float32"):
            require_arrays(**arguments)
