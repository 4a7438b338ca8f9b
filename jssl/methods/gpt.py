"""GPT: "Language Models are Unsupervised Multitask Learners" (Radford, Wu, Child, Luan, Amodei,
Sutskever; 2019), section 2: predict each token from those before it.

Documents are joined into rows; a token sees its own document only, and no document's end predicts
the next one's start. The table of embeddings also makes the logits.

Reference code: openai/gpt-2 src/model.py; karpathy/nanoGPT. The loss is computed in runs of
`config.chunk` tokens a row, so that the logits [tokens, vocabulary] are never held at once.
"""

from jssl import diagnose, nn, optim
from jssl.config import UserError
from jssl.core import Method, Objective, minimize
from jssl.losses import next_token
from jssl.nn.apply import apply, init


def build(config) -> Method:
    encoder, watch = nn.encoder(config.model, config.vocab.size), diagnose.watcher(config)
    chunk, length = config.chunk, config.data.length
    if chunk < 1 or length % chunk:
        raise UserError(f"config.chunk={chunk} must divide config.data.length={length}")
    if not encoder.style.causal:
        raise UserError(f"config.model.name={config.model.name!r} sees what it predicts; use gpt2")

    def start(rng, batch):
        params, _ = init(encoder, rng, batch["tokens"])
        return {"encoder": params}, {}

    def loss(params, state, batch, rng):
        tokens, segment = batch["tokens"], batch["segment"]
        hidden, _ = apply(
            encoder, params["encoder"], {}, tokens, segment=segment, train=True,
            rngs={"dropout": rng},
        )  # fmt: skip
        table = params["encoder"]["tokens"]["embedding"].astype(encoder.dtype)
        value, top1 = next_token(hidden, table, tokens, segment, chunk)
        metrics = watch(state.step, encoder.features(hidden, segment))
        return value, (state.buffers, metrics | {"token_top1": top1})

    def embed(params, buffers, batch):
        tokens, segment = batch["tokens"], batch["segment"]
        hidden, _ = apply(encoder, params["encoder"], {}, tokens, segment=segment, train=False)
        return encoder.features(hidden, segment)

    objective = Objective(start, loss, embed)
    return minimize(objective, optim.from_config(config), config.accumulate, config.grad_cache)
