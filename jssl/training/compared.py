"""The batch of a loss that compares its examples: none may be there twice."""

from jssl.config import ConfigError
from jssl.parallel import mesh
from jssl.training.setup import Run


def check_compared(run: Run) -> None:
    """Raises `UserError` if a loss would compare an example with itself.

    Only training asks for this: random data has as many examples as fit into a host's memory.
    """
    config = run.config
    parts = mesh.batch_parts(run.mesh) * config.accumulate
    examples = len(run.data.source)
    if run.method.compares and config.batch_size > examples:
        fits = examples // parts * parts
        raise ConfigError(
            "config.batch_size",
            config.batch_size,
            f"above the {examples} examples of {run.data.source.name}, and the loss of "
            f"{config.method!r} compares the examples of a batch, which would hold some twice",
            f"{(f'try {fits}' if fits > 1 else 'add some')}",
        )
