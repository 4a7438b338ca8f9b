"""Transforms of a batch on the device, inside the train step: augmentation, views, masks."""
