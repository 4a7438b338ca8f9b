"""jssl train --config=configs/bert_small_books.py --config.data.dir=DATA --workdir=runs/bert_books

BERT-Small (4 layers of 512; Turc et al. 2019, arXiv 1908.08962) on 22 MB of English books, byte by
byte or in the pieces of a tokenizer of your own:

    jssl data tokenizer --config=configs/bert_small_books.py --config.data.dir=DATA --out=bpe.json
    ... --config.data.tokenizer=bpe.json

Settings as BERT's (rate 1e-4 at 256 rows, here 5e-4 as RoBERTa's ablation for short training; decay
.01, 15 % chosen) with a cosine instead of a straight line. No figure is published for this corpus.
"""

from jssl.recipes import TEXT_FINETUNE, TINY_TEXT, recipe, text


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="bert",
            steps=10_000,
            batch_size=128,
            mask_rate=0.15, whole_words=False,
            data=dict(
                source="tfds", name="classic_books", tokenizer="bytes", seq_len=128, on_device=True,
            ),
            model=text("bert_small", 128, init="bert", dropout=0.1),
            optim=dict(
                name="adamw", lr=5e-4, warmup_steps=500, weight_decay=0.01, b2=0.98, eps=1e-6,
                clip_norm=1.0,
            ),
            checkpoint=dict(every=2_000),
            finetune=TEXT_FINETUNE | {"lr": 8e-4},
        ),
        whole_words={"whole_words": True, "data.word_ids": True},
        tiny=TINY_TEXT | {"model.name": "bert_test"},
    )  # fmt: skip
