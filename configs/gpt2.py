"""jssl train --config=configs/gpt2.py --config.data.dir=DATA --workdir=runs/gpt2

GPT-2 124M with karpathy/nanoGPT's settings (config/train_gpt2.py): 12 layers of 768, rows of 1,024
tokens, 480 rows a step, 600,000 steps, AdamW 6e-4 to 6e-5, betas .9 and .95, decay .1, clip 1, no
dropout. Bring a corpus (data.source=text or packed) and GPT-2's tokenizer. nanoGPT's loss of about
2.85 on OpenWebText is no target: its network has no biases (train.py:56) and its rows are windows
of one stream, in which a token sees the documents before its own; here are biases, as in GPT-2, and
a token sees its own document alone.
"""

from jssl.recipes import TEXT_FINETUNE, TINY_TEXT, recipe, text


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="gpt",
            steps=600_000,
            batch_size=480,
            chunk=128,
            data=dict(source="packed", path="", tokenizer="", seq_len=1024, workers=2),
            model=text("gpt2", 1024, init="gpt"),
            optim=dict(
                name="adamw", lr=6e-4, lr_final=6e-5, warmup_steps=2_000, weight_decay=0.1, b2=0.95,
                clip_norm=1.0,
            ),
            finetune=TEXT_FINETUNE,
        ),
        tiny=TINY_TEXT | {"data.workers": 0, "model.name": "gpt_test", "chunk": 16},
    )  # fmt: skip
