"""The train step of two players, such as the discriminator and the generator of a GAN."""

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jssl.config import ConfigError
from jssl.core import Batch, Method, Metrics, Params, TrainState, TwoPlayers, gradient_step
from jssl.parallel.mesh import on_cpu
from jssl.training.gradients import of_state, skip_nonfinite, split_microbatches

GENERATOR = "generator"  # the key of its parameters
PREFIX = {"discriminator": "d", "generator": "g"}  # of the metrics of their steps
Optimizers = dict[str, optax.GradientTransformation]


def alternate(
    players: TwoPlayers,
    optimizers: Optimizers,
    accumulate: int = 1,
    grad_cache: bool = False,
) -> Method:
    """Combines two players and their optimizers to a method.

    One update is `players.discriminator_steps` steps of the discriminator, each on its part of the
    batch, and one step of the generator. It is skipped as a whole if it is not finite. Metrics of
    the discriminator are means over its steps.

    Args:
      players: what the two players minimize.
      optimizers: {"discriminator": ..., "generator": ...}; so is ``state.opt_state``.
      accumulate: must be 1.
      grad_cache: must be False.

    Raises:
      UserError: `accumulate` or `grad_cache` is on.
    """
    for key, value, off in (("accumulate", accumulate, 1), ("grad_cache", grad_cache, False)):
        if value != off:
            raise ConfigError(
                f"config.{key}", value, "does not work with two players", f"set it to {off}"
            )

    def init(rng: Array, batch: Batch) -> TrainState:
        params, buffers = players.init(rng, batch)
        opt_state = {name: tx.init(own_params(params, name)) for name, tx in optimizers.items()}
        return TrainState(jnp.zeros((), jnp.int32), params, opt_state, buffers)

    def step_of(
        name: str, state: TrainState, batch: Batch, rng: Array
    ) -> tuple[TrainState, Metrics]:
        """(state, metrics) after one step of one player."""
        loss = players.generator_loss if name == GENERATOR else players.discriminator_loss
        params, opt_state, (buffers, extra), metrics = gradient_step(
            lambda params: loss(params, state, batch, rng),
            own_params(state.params, name),
            state.opt_state[name],
            optimizers[name],
        )
        state = state.replace(
            params=state.params | params,
            opt_state=state.opt_state | {name: opt_state},
            buffers=buffers,
        )
        return state, extra | {f"{PREFIX[name]}_{key}": x for key, x in metrics.items()}

    def train_step(state: TrainState, batch: Batch, rng: Array) -> tuple[TrainState, Metrics]:
        rng_update, rng_discriminator, rng_generator = jax.random.split(rng, 3)
        if players.before_update:
            state = players.before_update(state, rng_update)
        parts = split_microbatches(batch, players.discriminator_steps)
        keys = jax.random.split(rng_discriminator, players.discriminator_steps)

        def turn(state: TrainState, inputs: tuple[Batch, Array]) -> tuple[TrainState, Metrics]:
            return step_of("discriminator", state, *inputs)

        # XLA's convolutions in a loop take many times as long on CPUs.
        new, metrics = jax.lax.scan(turn, state, (parts, keys), unroll=on_cpu() or 1)
        metrics = jax.tree.map(lambda x: x.mean(0), metrics)
        last = jax.tree.map(lambda x: x[-1], parts)
        new, of_generator = step_of(GENERATOR, new, last, rng_generator)
        metrics |= of_generator
        metrics["loss"] = metrics["d_loss"]
        metrics["grad_norm"] = jnp.hypot(metrics["d_grad_norm"], metrics["g_grad_norm"])
        return skip_nonfinite(new.replace(step=state.step + 1), state, metrics)

    return Method(
        init,
        train_step,
        embed=of_state(players.embed),
        render=of_state(players.render) if players.render else None,
        sample=of_state(players.sample) if players.sample else None,
        turns=players.discriminator_steps,
    )


def own_params(params: Params, name: str) -> Params:
    """The parameters of one player: "discriminator" or "generator"."""
    return {
        key: value for key, value in params.items() if (key == GENERATOR) == (name == GENERATOR)
    }
