"""VQ-VAE: "Neural Discrete Representation Learning"
(van den Oord, Vinyals, Kavukcuoglu; NeurIPS 2017; arXiv 1711.00937), equation 3 and appendix A.1.

An encoder maps an image to a grid of vectors. Each is replaced by the nearest code of a codebook,
and a decoder maps the codes to the image. The loss is the squared error of the image plus a
commitment loss, which keeps the vectors near their codes. The gradient passes the codebook
unchanged. The codes are moving averages of the vectors that choose them.

`config.quantizer="fsq"` rounds the numbers of each vector instead: finite scalar quantization
("Finite Scalar Quantization: VQ-VAE Made Simple", arXiv 2309.15505).

`jssl.nn.codebook.code_ids` gives the code ids of images, as a tokenizer.

Reference code: google-deepmind/sonnet src/nets/vqvae.py and examples/vqvae_example.ipynb. As there,
the error of the image is divided by the variance of the pixels: here of each channel, as the pixels
are normalized. Differences: the encoder is a ResNet or a ViT; codes that fall out of use are drawn
anew from the last batch (`config.reseed_below`); with micro-batches the codebook moves once for
each.
"""

import jax
import jax.numpy as jnp

from jssl.config import Config, ConfigError
from jssl.core import DatasetInfo, Objective, Panel
from jssl.metrics import monitor_from_config, perplexity
from jssl.nn import codebook, decoder, masked_image
from jssl.nn.autoencoder import autoencoder_from_config, picture_view
from jssl.nn.codebook import quantizer_from_config
from jssl.transforms.pictures import to_pixels

KEYS = codebook.KEYS
SECTIONS = decoder.SECTIONS


def build(config: Config, data_info: DatasetInfo) -> Objective:
    """See the module; `config` is the whole config."""
    if config.decoder.bottleneck != "map":
        raise ConfigError(
            "config.decoder.bottleneck",
            config.decoder.bottleneck,
            "a code needs a place",
            "use map",
        )
    net = autoencoder_from_config(config)
    quantize = quantizer_from_config(config)
    train_view = masked_image.train_view(config)
    view = masked_image.eval_view(config)
    picture = picture_view(config)
    monitor = monitor_from_config(config)

    def init(rng, batch):
        rng_net, rng_codebook = jax.random.split(rng)
        params, stats = net.init(rng_net, picture(batch))
        return params, {"stats": stats, "codebook": quantize.init(rng_codebook)}

    def before_update(state, rng):
        book = quantize.reseed(state.buffers["codebook"])
        return state.replace(buffers=state.buffers | {"codebook": book})

    def loss(params, state, batch, rng):
        rng_view, rng_net, rng_codebook = jax.random.split(rng, 3)
        images = train_view(rng_view, batch)
        z, features, stats = net.encode(params, state.buffers["stats"], images, True, rng_net)
        codes, ids, commitment, book = quantize(state.buffers["codebook"], z, rng_codebook)
        decoded, stats = net.decode(params, stats, codes, train=True)
        reconstruction = jnp.square(decoded - images).mean()
        metrics = monitor(state.step, features) | {
            "reconstruction_loss": reconstruction,
            "commitment_loss": commitment,
            "perplexity": perplexity(ids, quantize.num_codes),
        }
        return reconstruction + commitment, ({"stats": stats, "codebook": book}, metrics)

    def embed(params, buffers, batch):
        return net.embed(params, buffers["stats"], view(batch))

    def render(params, buffers, batch, rng):
        images = picture(batch)
        ids = codebook.code_ids(net, quantize, params, buffers, images)
        codes = quantize.lookup(buffers["codebook"], ids)
        decoded, _ = net.decode(params, buffers["stats"], codes, train=False)
        columns = (to_pixels(config, images), to_pixels(config, decoded))
        return {"reconstructed": Panel(columns, ("original", f"from {ids[0].size} codes"))}

    return Objective(init, loss, embed, render, before_update=before_update)
