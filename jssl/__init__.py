"""jssl: high-throughput self-supervised pretraining in JAX. A method is one readable file."""

__version__ = "0.1.0"
