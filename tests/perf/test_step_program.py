"""What can be seen in a step's jaxpr before it runs: float32 products, transposed activations,
transfers to the host, a mask where lengths would do.

The steps are those of a GPU: bfloat16 and cuDNN's attention, on a Hopper that is pretended.
"""

import functools
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import pytest
from conftest import make_mesh
from jax._src.cudnn import fused_attention_stablehlo as cudnn

from jssl.commands.bench import made_up
from jssl.config import Config, load
from jssl.perf import flops
from jssl.training.setup import setup_run

PRODUCTS = ("dot_general", "conv_general_dilated")
HOST = ("callback", "debug_print", "infeed", "outfeed", "device_put")
MODULE = re.compile(r"\((\w+)\)")  # the class of a network in jvp(ViT)/blocks/0/attn
LENGTHS = ("data.pack_documents", "false")

# Products of float32 that are meant, as (number, what they are). A loss of 128 features and a head
# cost few operations beside the encoder, and their sums cancel.
TABLE = "positions of another size: einsums of a table with no batch"
FLOAT32 = {
    "simclr_imagenet": (3, "NT-Xent: similarities and their two gradients"),
    "byol_imagenet": (0, ""),
    "mae_vitb_imagenet": (0, ""),
    "simmim_vitb_imagenet": (3, "the decoder, one Dense layer (nn/masked_image.py)"),
    "dino_vits_imagenet": (7, "prototypes: teacher, student of two sizes, and gradients"),
    "bert_base": (3, "the Dense layer before the table, at selected tokens (methods/bert.py)"),
    "gpt2": (0, ""),
}
# Transposed arrays of 4 and more dimensions: where, and why.
TRANSPOSED = {
    "mae_vitb_imagenet": {"embed": "pixels to patches", "": "the targets, pixels to patches"},
    "simmim_vitb_imagenet": {"embed": "pixels to patches", "": "the targets, pixels to patches"},
    "dino_vits_imagenet": {"embed": "pixels to patches"},
    "gpt2": {"": "chunks of positions ahead of the scan over them (losses/language.py)"},
}
RECIPES = list(FLOAT32)


class Operation(NamedTuple):
    """One equation of a step, and the scopes around it."""

    eqn: Any
    scope: str

    @property
    def name(self) -> str:
        return self.eqn.primitive.name

    @property
    def inputs(self) -> list[Any]:
        return [x.aval for x in self.eqn.invars]

    @property
    def network(self) -> str:
        """The class of the network around it, or ""."""
        return next((found[1] for found in MODULE.finditer(self.scope)), "")


def operations(jaxpr: Any, scope: str = "") -> Iterator[Operation]:
    """Yields all equations, but for those that make views or metrics."""
    for eqn in jaxpr.eqns:
        inner = f"{scope}/{eqn.source_info.name_stack}"
        if not flops.ASIDE.search(inner):
            yield Operation(eqn, inner)
            for body in flops._bodies(eqn.params):
                yield from operations(body, inner)


@functools.cache
def step(recipe: str, *changes: tuple[str, str]) -> list[Operation]:
    """The operations of a recipe's tiny step."""
    words = {"model.dtype": "bfloat16", "accumulate": "1", **dict(changes)}
    path = f"configs/{recipe}.py:tiny"
    if "attention" in load(path).model:
        words["model.attention"] = "cudnn"
    config = Config(load(path, words))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cudnn, "check_cudnn_version", lambda: 91900)
        patch.setattr(cudnn, "check_compute_capability", lambda wanted: True)
        patch.setattr(cudnn, "is_cuda_compute_capability_equal", lambda wanted: False)
        run = setup_run(config, make_mesh(1), made_up(config))
        batch = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((config.batch_size, *x.shape[1:]), x.dtype), run.example
        )
        program = jax.make_jaxpr(run.method.train_step)(run.shapes, batch, jax.random.key(0))
    return list(operations(program.jaxpr))


@pytest.mark.parametrize("recipe", RECIPES)
def test_no_product_is_float32_by_accident(recipe):
    found = [op for op in step(recipe) if op.name in PRODUCTS]
    assert any(op.network for op in found)
    dtypes = [{str(x.dtype) for x in op.inputs} for op in found]
    assert {"float32", "bfloat16"} not in dtypes, "a mixed product is computed in float32"
    exact = [op for op, names in zip(found, dtypes, strict=True) if names == {"float32"}]
    outside = [op.scope for op in exact if not op.network]
    inside = [op.scope for op in exact if op.network and "position_table" not in op.scope]
    assert not inside
    assert len(outside) == FLOAT32[recipe][0], outside


@pytest.mark.parametrize("recipe", RECIPES)
def test_nothing_goes_to_the_host(recipe):
    assert not [op for op in step(recipe) if any(word in op.name for word in HOST)]


@pytest.mark.parametrize("recipe", RECIPES)
def test_activations_are_not_transposed(recipe):
    """Kernels [in, out] are: cuBLAS reads them in either order."""
    large = [op for op in step(recipe) if op.name == "transpose" and op.inputs[0].ndim >= 4]
    places = {"embed" if op.scope.endswith("embed") else op.network and op.scope for op in large}
    assert places == set(TRANSPOSED.get(recipe, {}))


def test_convolutions_are_in_the_order_of_the_images():
    """NHWC and HWIO. A gradient exchanges batch and features, and moves nothing."""
    found = [op for op in step("simclr_imagenet") if op.name == "conv_general_dilated"]
    assert len(found) > 10
    orders = {op.eqn.params["dimension_numbers"] for op in found}
    assert {(d.lhs_spec[2:], d.out_spec[2:]) for d in orders} == {
        ((1, 2), (1, 2)),
        ((1, 2), (0, 1)),
    }


def test_max_pooling_selects_by_comparison():
    names = {op.name for op in step("simclr_imagenet")}
    assert "reduce_window_max" in names
    assert not [name for name in names if "select_and" in name]


@pytest.mark.parametrize(("recipe", "kind"), [("bert_base", "PADDING"), ("gpt2", "PADDING_CAUSAL")])
def test_rows_of_one_document_pass_lengths(recipe, kind):
    """Forward and backward: no bias [B, 1, T, T], and one length for each row."""
    calls = [op for op in step(recipe, LENGTHS) if "dot_product_attention" in op.name]
    assert {"fwd" in op.name for op in calls} == {True, False}
    for op in calls:
        query, _, _, bias, query_lengths, key_lengths = op.inputs[:6]
        assert bias.size == 0 and op.eqn.params["mask_type"].name == kind
        assert query_lengths.shape == key_lengths.shape == query.shape[:1]
