"""Multitask: "Multi-task Self-Supervised Visual Learning"
(Doersch, Zisserman; ICCV 2017; arXiv 1708.07860).

Several tasks train one shared encoder at once. `config.tasks` lists methods with their weights,
(("simclr", 1.0), ("rotation", 0.5)). Each is built from the config and the section of its name
(`jssl.config.tasks`). All tasks see the whole batch, each through views of its own. Heads, buffers
and metrics of a task have its name; the BatchNorm statistics of the encoder are shared. A task of
weight 0 is left out. The gradients are summed with weights: those of `config.tasks`, or learned
ones (`config.balance`, see `jssl.optim.balance`). How well the tasks agree is logged: the cosines
of their gradients of the encoder, in pairs.

The features are those of the first task. Difference from the paper: one optimizer for all, and no
lasso that chooses layers for each task.
"""

from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import optax

from jssl import methods
from jssl.config import Config, ConfigError, UserError, tasks
from jssl.config.values import Length, NonNegative, Positive
from jssl.core import DatasetInfo, Objective
from jssl.nn import shared_encoder
from jssl.optim.balance import Balance
from jssl.transforms.pictures import add_views

KEYS = {
    "tasks": Annotated[
        tuple[tuple[str, NonNegative], ...], Length(1), "methods and the weights of their losses"
    ],
    "balance": Annotated[
        Literal["fixed", "uncertainty", "gradnorm"], "how the losses are weighted"
    ],
    "gradnorm_alpha": Annotated[
        NonNegative, "gradnorm: how much faster a task learns that is behind (alpha)"
    ],
    "gradnorm_lr": Annotated[Positive, "gradnorm: learning rate of the weights"],
}
MONITOR = ("feature_std", "alignment", "uniformity", "rank")  # of the first task, by these names


def build(config: Config, data_info: DatasetInfo) -> Objective:
    """See the module; `config` is the whole config."""
    weights = tasks.weights_of(config)
    parts = {name: objective_of(config, name, data_info) for name in weights}
    first = next(iter(parts))
    balance = Balance(config.balance, weights, config.gradnorm_alpha, config.gradnorm_lr)

    def init(rng, batch):
        params, buffers = {}, {}
        for name, key in keys_of(parts, rng):
            own, own_buffers = parts[name].init(key, batch)
            encoder = params.get("encoder", own["encoder"])  # that of the first task
            params = shared_encoder.join_params(params, name, own | {"encoder": encoder})
            buffers = shared_encoder.join_buffers(buffers, name, own_buffers)
        return params | balance.params(), buffers | balance.buffers()

    def before_update(state, rng):
        params, buffers = state.params, state.buffers
        for name, key in keys_of(parts, rng):
            if update := parts[name].before_update:
                own = shared_encoder.own_state(state.replace(params=params, buffers=buffers), name)
                own = update(own, key)
                params = shared_encoder.join_params(params, name, own.params)
                buffers = shared_encoder.join_buffers(buffers, name, own.buffers)
        return state.replace(params=params, buffers=buffers)

    def gradient(state, batch, rng):
        losses, gradients, metrics = {}, {}, {}
        buffers = state.buffers
        for name, key in keys_of(parts, rng):
            own = shared_encoder.own_state(state.replace(buffers=buffers), name)
            loss = jax.value_and_grad(parts[name].loss, has_aux=True)
            (losses[name], (own_buffers, found)), gradients[name] = loss(
                own.params, own, batch, key
            )
            buffers = shared_encoder.join_buffers(buffers, name, own_buffers)
            metrics |= {f"{name}_loss": losses[name]}
            metrics |= {f"{name}_{key}": x for key, x in found.items() if key not in MONITOR}
            if name == first:
                metrics |= {key: x for key, x in found.items() if key in MONITOR}
        factors = balance.factors(state.params, state.buffers)
        total = balance.total(state.params, factors, losses)
        of_encoder = {name: grads["encoder"] for name, grads in gradients.items()}
        norms = {name: optax.tree.norm(grads) for name, grads in of_encoder.items()}
        buffers = buffers | balance.updated(state.buffers, losses, norms, state.step)
        metrics |= {f"{name}_weight": jnp.float32(factors[name]) for name in parts}
        metrics |= shared_encoder.cosines(of_encoder, norms)
        grads = shared_encoder.weighted_sum(gradients, factors) | balance.gradient(
            state.params, losses
        )
        return (total, (buffers, metrics)), grads

    def loss(params, state, batch, rng):
        (total, aux), _ = gradient(state.replace(params=params), batch, rng)
        return total, aux

    def embed(params, buffers, batch):
        own = shared_encoder.own_params(params, first)
        return parts[first].embed(own, shared_encoder.own_buffers(buffers, first), batch)

    def render(params, buffers, batch, rng):
        panels = {}
        for name, part in parts.items():
            if part.render:
                own = shared_encoder.own_params(params, name)
                own_buffers = shared_encoder.own_buffers(buffers, name)
                found = part.render(own, own_buffers, batch, rng)
                panels |= {f"{name}_{panel}": value for panel, value in found.items()}
        return panels

    return Objective(
        init,
        loss,
        embed,
        render=render if any(part.render for part in parts.values()) else None,
        before_update=before_update if any(part.before_update for part in parts.values()) else None,
        embeds=parts[first].embeds,
        gradient=gradient,
    )


def keys_of(parts, rng):
    """(name, random key) of each task; the first has the key that it would have alone."""
    return [(name, jax.random.fold_in(rng, i) if i else rng) for i, name in enumerate(parts)]


def objective_of(config, name, data_info):
    """The objective of a task; raises `UserError` with the keys of the whole config."""
    own = tasks.config_of(config, name)
    try:
        built = methods.load(own, data_info)
    except UserError as error:
        raise tasks.renamed_error(error, config._tree, name) from None
    if not isinstance(built, Objective):
        cure = "name other methods"
        raise ConfigError("config.tasks", name, "has an optimizer for each network", cure)
    return add_views(built, own, data_info)
