"""A source of gray images."""

import jax
import numpy as np


class Shades:
    """Gray images of which image `i` has the shade 20 * i."""

    fields = {"image": jax.ShapeDtypeStruct((8, 8, 3), np.uint8)}

    def read(self, indices):
        shade = np.asarray(indices, np.uint8)[:, None, None, None] * 20
        size = np.full((len(indices), 2), 8, np.int32)
        return {"image": np.broadcast_to(shade, (len(indices), 8, 8, 3)), "size": size}

    def describe(self, index):
        return f"photos/a\tb {index}\n.png"
