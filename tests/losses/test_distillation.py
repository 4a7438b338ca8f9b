"""Losses of distillation against float64 NumPy references written from the papers; and the whole
loss of the method, of made-up outputs of the networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import config_of, image_info
from helpers.losses import agree, close, reference_sinkhorn, unit

from jssl import losses, nn
from jssl.core import TrainState
from jssl.methods import distill
from jssl.nn import feature_maps
from jssl.nn.apply import apply, init

RECIPE = "configs/distill_cifar10.py:tiny"


def cosine(x, target):
    return np.mean([1 - a @ b for a, b in zip(rows(unit(x)), rows(unit(target)), strict=True)])


def rows(x):
    return x.reshape(-1, x.shape[-1])


def smooth_l1(x, target):
    """Section 3 of 2205.14141 with beta 2, and torch's LayerNorm and SmoothL1Loss."""
    mean = target.mean(-1, keepdims=True)
    white = (target - mean) / np.sqrt(((target - mean) ** 2).mean(-1, keepdims=True) + 1e-5)
    size = np.abs(x - white)
    return np.where(size < 2, size**2 / 4, size - 1).mean()


def relation(x, target):
    """Section 3 of 1907.09682, row by row."""

    def normalized(q):
        g = q @ q.T
        return np.stack([row / np.sqrt((row**2).sum()) for row in g])

    return ((normalized(target) - normalized(x)) ** 2).sum() / len(x) ** 2


@pytest.mark.parametrize("shape", [(6, 5), (2, 3, 4, 5)])
@pytest.mark.parametrize(
    ("ours", "reference"),
    [(losses.cosine_distance, cosine), (losses.whitened_smooth_l1, smooth_l1)],
)
def test_feature_losses(ours, reference, shape):
    x, target = np.random.default_rng(0).normal(size=(2, *shape)) * 3
    agree(lambda x: ours(x, np.float32(target)), lambda x: reference(x, target), x)


def test_similarity_preserving():
    rng = np.random.default_rng(0)
    x, target = rng.normal(size=(6, 5)), rng.normal(size=(6, 9))

    def ours(x):
        return losses.similarity_preserving(x, np.float32(target))

    agree(ours, lambda x: relation(x, target), x)


@pytest.mark.parametrize("name", ["cosine_distance", "whitened_smooth_l1", "similarity_preserving"])
def test_no_gradient_flows_to_the_teacher(name):
    x, target = np.random.default_rng(0).normal(size=(2, 6, 5)).astype(np.float32)
    grad = jax.grad(getattr(losses, name), argnums=1)(x, target)
    np.testing.assert_array_equal(grad, 0)


def triangle(old, new):
    """Weights of Pillow's BILINEAR along one axis, [new, old], from its documentation."""
    scale = old / new
    weights = np.zeros((new, old))
    for i in range(new):
        for j in range(old):
            distance = abs((j + 0.5) - (i + 0.5) * scale) / max(scale, 1)
            weights[i, j] = max(0, 1 - distance)
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize(("old", "new"), [((4, 4), (7, 7)), ((8, 6), (3, 6)), ((3, 3), (3, 3))])
def test_maps_are_resized_bilinearly(old, new):
    x = np.random.default_rng(0).normal(size=(2, *old, 3))
    wanted = np.einsum("ih,jw,bhwc->bijc", triangle(old[0], new[0]), triangle(old[1], new[1]), x)
    close(feature_maps.resized(np.float32(x), *new), wanted, 1e-5, 1e-5)


@pytest.mark.parametrize("recipe", ["distill_cifar10", "distill_imagenette"])
def test_the_map_of_an_encoder(recipe):
    """Its mean is the pooled feature of a ResNet, and of a ViT that pools its patches."""
    section = dict(config_of(f"configs/{recipe}.py:tiny").model)
    section |= {"pool": "mean"} if "pool" in section else {}
    encoder = nn.encoder(section)
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    params, stats = init(encoder, jax.random.key(0), images)
    features, feature_map, _ = feature_maps.run_encoder(encoder, params, stats, images, train=False)
    assert feature_map.shape[-1] == encoder.dim and feature_map.shape[1] == feature_map.shape[2]
    close(feature_map.mean((1, 2)), features, 1e-5, 1e-6)
    output, _ = apply(encoder, params, stats, images, train=False)
    close(features, encoder.features(output), 1e-5, 1e-6)


def test_the_whole_loss_is_the_weighted_sum():
    """Outputs of the networks are made up; the last term is DINOv2's with Sinkhorn-Knopp."""
    weights = {"global": 0.5, "dense": 2.0, "relation": 3.0, "prototype": 0.25}
    words = {f"{name}_weight": weight for name, weight in weights.items()}
    config = config_of(RECIPE, **words, temperature=0.2, teacher_temp=0.05, log__rank_every=0)
    objective = distill.build(config, image_info())
    rng = np.random.default_rng(0)
    draw = {"features": (6, 16), "head": (6, 32), "prototype_head": (6, 8), "map": (6, 4, 4, 32)}
    outputs = {name: rng.normal(size=shape) for name, shape in draw.items()}
    shapes = {"features": (6, 32), "map": (6, 4, 4, 32), "logits": (6, 12)}
    teacher = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    teacher["logits"] = np.tanh(teacher["logits"])
    direction = rng.normal(size=(12, 8))
    p = reference_sinkhorn(teacher["logits"], 0.05, 3)
    logits = unit(outputs["prototype_head"]) @ unit(direction).T / 0.2
    log_q = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    values = {
        "global": cosine(outputs["head"], teacher["features"]),
        "dense": cosine(outputs["map"], teacher["map"]),
        "relation": relation(outputs["features"], teacher["features"]),
        "prototype": -(p * log_q).sum(1).mean(),
    }
    state = TrainState(np.int32(0), None, None, {})
    params = {"prototypes": {"direction": np.float32(direction)}}
    given = jax.tree.map(jnp.float32, outputs | {"teacher": teacher})
    value, (_, metrics) = objective.stages[1](params, given, state, None, None)
    close(value, sum(weights[name] * values[name] for name in values))
    for name, wanted in values.items():
        close(metrics[f"{name}_loss"], wanted, 2e-5)
