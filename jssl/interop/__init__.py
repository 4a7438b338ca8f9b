"""Weights of other libraries, in and out; starts from weights; exported folders."""
