"""jssl train --config=configs/gpt_small_books.py --config.data.dir=DATA --workdir=runs/gpt_books

A small GPT (6 layers of 384: nanoGPT's config/train_shakespeare_char.py, with its rate 1e-3 to
1e-4, decay .1, dropout .2, clip 1, betas .9 and .99) on 22 MB of English books, byte by byte or in
the pieces of a tokenizer of your own (see bert_small_books.py). No figure is published for this
corpus.
"""

from jssl.recipes import TEXT_FINETUNE, TINY_TEXT, recipe, text


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="gpt",
            steps=5_000,
            batch_size=64,
            chunk=64,
            data=dict(
                source="tfds", name="classic_books", tokenizer="bytes", seq_len=256, on_device=True,
            ),
            model=text("gpt_small", 256, init="gpt", dropout=0.2),
            optim=dict(
                name="adamw", lr=1e-3, lr_final=1e-4, warmup_steps=100, weight_decay=0.1, b2=0.99,
                no_decay=("bias$", "scale$"), clip_norm=1.0,
            ),
            checkpoint=dict(every=1_000),
            finetune=TEXT_FINETUNE | {"lr": 8e-4},
        ),
        tiny=TINY_TEXT | {"model.name": "gpt_test", "chunk": 16},
    )  # fmt: skip
