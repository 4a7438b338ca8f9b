"""Transforms of a batch on the device, inside the train step: augmentation, views, masks.

Arguments of another rank, shape or dtype than documented raise AssertionError while the transform
is traced. The message has their names and shapes (`jssl.ops.require_arrays`).
"""
