"""Weights of other libraries in, and ours out. NumPy only: no other library is needed."""
