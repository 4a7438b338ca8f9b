"""Builds what a config names: device mesh, data, method, sharded state shapes, compiled train step.

Training, evaluation and benchmarks all begin here.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jssl import data, methods, optim
from jssl.config import (
    Config,
    ConfigError,
    UserError,
    call_with_section,
    durations,
    schema,
    suggest,
)
from jssl.core import Batch, DatasetInfo, Method, Metrics, Objective, TrainState, TwoPlayers
from jssl.data import DataConfig
from jssl.data.loader import Feed
from jssl.data.source import Source, dataset_info, info_to_json
from jssl.data.sources.absent import open_or_absent
from jssl.errors import MissingKeyError
from jssl.evals import finetune
from jssl.evals.layers import evaluated_layer
from jssl.interop.start import start_state
from jssl.interop.teacher import described, start_teacher
from jssl.parallel import agreement, mesh
from jssl.perf import compiler, flops, memory
from jssl.training import missing_keys
from jssl.training.gradients import minimize, skip_nonfinite_updates
from jssl.training.two_players import alternate
from jssl.transforms.pictures import add_views
from jssl.workdir import claim


class Run(NamedTuple):
    """Everything of a run except its state and its position in the data."""

    config: Config
    mesh: Mesh
    method: Method
    data: DataConfig
    data_info: DatasetInfo
    example: dict[str, np.ndarray]  # two real examples, for shapes
    shapes: Any  # a TrainState of ShapeDtypeStructs with shardings

    def init(self) -> TrainState:
        """Computes the state at step 0, in shards from the beginning."""
        places = jax.tree.map(lambda leaf: leaf.sharding, self.shapes)
        start = compiler.jit(self._init, self.mesh, runs_once=True, out_shardings=places)
        with memory.explained(self, batch=False):
            memory.check(start.lower().compile(), self, batch=False)
            return start_teacher(self.config, start_state(self.config, start()))

    def _init(self) -> TrainState:
        example: Any = self.example
        return self.method.init(rng_keys(self.config)[0], example)


def rng_keys(config: Config) -> jax.Array:
    """Derives two independent keys from ``config.seed``: [for init, for the steps]."""
    return jax.random.split(jax.random.key(config.seed))


def setup_run(
    config: Config,
    devices: Mesh | None = None,
    source: data.DataConfig | None = None,
    data_info: DatasetInfo | None = None,
    training: bool = True,
) -> Run:
    """Builds what a config names, after checks against the machine and the data.

    Args:
      config: a whole config; its durations may still be texts.
      devices: the mesh; None: the mesh that the config describes.
      source: the data; None: the data that the config describes.
      data_info: the stored facts about the data set of a run that began before.
      training: False: the state gets the shapes that it was trained with, for any data, and the
        data of the run may be gone (`jssl.data.sources.absent`).

    Raises:
      UserError: wrong values, or data that does not fit `data_info`.
    """
    agreement.run_on_all_processes(lambda: schema.check(config._tree))
    agreement.run_on_all_processes(lambda: missing_keys.check(config._tree))
    agreement.check(lambda: claim.common(config._tree))
    tree = agreement.run_on_all_processes(lambda: described(config._tree))
    config = Config(tree, seen=config._seen)
    device_mesh = devices or call_with_section(mesh.make_mesh, config.mesh, "mesh", devices=None)
    if source is None:
        source = agreement.run_on_all_processes(lambda: open_data(config, data_info, training))
    agreement.check(partial(found_in, source.source), "give all processes the same data set")
    info = dataset_info(source.source)
    if data_info is not None:
        check_tokenizer(config, data_info, info)
        if training:
            check_examples(config, data_info, info)
        else:
            info = data_info
    config = Config(durations.resolved(config._tree, info.num_examples), seen=config._seen)
    method = agreement.run_on_all_processes(lambda: build_method(config, info))
    method = evaluated_layer(method, config, info)
    if training:
        check_honored(config, method)
        finetune.check(config, info)
    example = agreement.run_on_all_processes(partial(first_two, source.source))
    run = Run(config, device_mesh, once(method), source, info, example, None)
    return run._replace(shapes=_sharded_shapes(run))


def _sharded_shapes(run: Run) -> Any:
    """Returns the ShapeDtypeStructs of the state of a run, with shardings."""
    return mesh.placed(jax.eval_shape(run._init), run.mesh)


def open_data(config: Config, data_info: DatasetInfo | None, training: bool) -> data.DataConfig:
    """Opens the training data of a config."""
    if training or data_info is None:
        return data.load_again(config.data, data_info)
    return open_or_absent(config, data_info)


def check_examples(config: Config, stored: DatasetInfo, found: DatasetInfo) -> None:
    """Raises `UserError` if the data has another size than when the run began."""
    if found.num_examples != stored.num_examples:
        raise ConfigError(
            "config.data.source",
            config.data.source,
            f"has {found.num_examples} examples, and the run began with {stored.num_examples}",
            "restore the data, or use another --workdir",
        )


def check_tokenizer(config: Config, stored: DatasetInfo, found: DatasetInfo) -> None:
    """Raises `UserError` if the tokenizer is not the one with which the run began.

    It is recognized by what it does, not by its name.
    """
    for name, before in (stored.vocab._asdict() if stored.vocab else {}).items():
        now = getattr(found.vocab, name, None)
        if now != before:
            raise ConfigError(
                "config.data.tokenizer",
                config.data.tokenizer,
                f"not the one that this run began with: its {name} is {now!r}, and was {before!r}",
                "name that one",
            )


def build_method(config: Config, data_info: DatasetInfo) -> Method:
    """Builds the method of a config.

    An `Objective` gets optimizer, micro-batches and GradCache, and `TwoPlayers` get two optimizers.
    The step skips updates that are not finite (`gradients.skip_nonfinite_updates`).
    """
    try:
        built = methods.load(config, data_info)
    except MissingKeyError as error:
        raise missing_keys.report(config, data_info, error) from None
    if isinstance(built, Objective):
        tx = optim.from_config(config)
        built = add_views(built, config, data_info)
        built = minimize(built, tx, config.accumulate, config.grad_cache)
    elif isinstance(built, TwoPlayers):
        optimizers = optim.of_two_players(config)
        built = alternate(built, optimizers, config.accumulate, config.grad_cache)
    return skip_nonfinite_updates(built, config.method)


def once(method: Method) -> Method:
    """Wraps `init` and `train_step` so that JAX traces them once for all uses.

    The uses are shapes, the FLOP count and the program that runs. The operations are inlined.
    """
    inline = partial(jax.jit, inline=True)
    return method._replace(init=inline(method.init), train_step=inline(method.train_step))


def first_two(source: Source) -> dict[str, np.ndarray]:
    """Reads two examples of a source, for shapes."""
    example = source.read(np.array([0, min(1, len(source) - 1)]))
    example.pop("damaged")
    return example


def found_in(source: Source) -> dict[str, Any]:
    """Returns the facts about the data on which the processes of a run have to agree."""
    info = dataset_info(source)
    return {
        "the number of examples": len(source),
        "the classes": list(source.classes or ()),
        "the fields of an example": info_to_json(info)["fields"],
        "the tokenizer": info_to_json(info)["vocab"],
        "the fingerprint of the data": source.fingerprint,
    }


def check_honored(config: Config, method: Method) -> None:
    """Raises `UserError` for a key of every recipe that has no effect on this method."""
    for key in ("accumulate", "grad_cache"):
        value = config[key]
        honored = getattr(method, key)
        if value != honored:
            raise ConfigError(
                f"config.{key}",
                value,
                f"means nothing to config.method={config.method!r}",
                f"set it to {honored}, or let its build return an Objective",
            )
    if config.log.render_every and not method.render:
        raise ConfigError(
            "config.log.render_every",
            config.log.render_every,
            f"config.method={config.method!r} makes no pictures and no text",
            "set it to 0",
        )


def check_batch(run: Run) -> None:
    """Checks the batch size against the devices; evaluation does not need it.

    Raises:
      UserError: the batch size does not fit.
    """
    config = run.config
    if config.batch_size < 2:
        raise ConfigError("config.batch_size", config.batch_size, "must be at least 2", "try 2")
    parts = mesh.batch_parts(run.mesh) * config.accumulate * run.method.turns
    what = "parts of data and fsdp" if run.mesh.shape["tensor"] > 1 else "devices"
    what += " x config.accumulate" if config.accumulate > 1 else ""
    what += " x steps of the discriminator" if run.method.turns > 1 else ""
    mesh.check_batch("config.batch_size", config.batch_size, parts, what)


# Sections with keys that only some commands read.
KEYS_READ_OUTSIDE = tuple(
    f"config.{section}."
    for section in ("init_from", "eval", "finetune", "log", "checkpoint", "alarm")
)


def check_unused_keys(config: Config) -> None:
    """Raises `UserError` for a key that nothing reads: a typo is no silent default."""
    for key in config.unread():
        section, _, name = key.rpartition(".")
        if key.startswith(KEYS_READ_OUTSIDE) or (
            key == "config.grad_cache" and not config.grad_cache
        ):
            continue
        read = [k.rpartition(".")[2] for k in config._seen if k.rpartition(".")[0] == section]
        raise UserError(f"--{key} is read by nothing in {config.method!r}; {suggest(name, read)}")


def train_step(run: Run, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    """Runs the train step of the method with the random key of ``state.step``."""
    rng = jax.random.fold_in(rng_keys(run.config)[1], state.step)
    return mesh.with_mesh(run.mesh, run.method.train_step)(state, batch, rng)


def compile_step(run: Run, feed: Feed) -> memory.Step:
    """Returns the jitted step (state, held, fed) -> (state, metrics); it donates the state.

    Its first call raises `UserError` if the program needs more memory than is free.
    """

    def step(
        state: TrainState, held: dict[str, jax.Array], fed: dict[str, jax.Array]
    ) -> tuple[TrainState, Metrics]:
        return train_step(run, state, feed.batch(held, fed))

    places = jax.tree.map(lambda leaf: leaf.sharding, run.shapes)
    jitted = compiler.jit(step, run.mesh, donate_argnums=0, out_shardings=(places, None))
    return memory.Step(run, jitted)


def model_flops(run: Run) -> int:
    """Counts matrix and convolution FLOPs of one step, without repetitions by rematerialization."""
    config = run.config
    kernels = run.mesh.devices.flat[0].platform != "cpu"  # on a CPU "auto" is "xla"
    keys = ("model.attention", "teacher_model.attention")
    changes = {"model.remat": "none"} | (dict.fromkeys(keys, "xla") if kernels else {})
    plain = config.changed(changes)
    method = run.method if plain._tree == config._tree else build_method(plain, run.data_info)
    sharding = mesh.batch_sharding(run.mesh)
    size = config.batch_size

    def grow(x: np.ndarray) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype, sharding=sharding)

    batch = jax.tree.map(grow, run.example)
    rng = jax.eval_shape(jax.random.key, 0)
    rng = jax.ShapeDtypeStruct(rng.shape, rng.dtype, sharding=mesh.replicated(run.mesh))
    step = mesh.with_mesh(run.mesh, method.train_step)
    return flops.count(step, run.shapes, batch, rng)
