"""jssl train --config=configs/bert_base.py --config.data.dir=DATA --workdir=runs/bert_base

BERT-base as published (Devlin et al. 2019, section 3.1 and appendix A.2): 12 layers of 768, rows of
512 tokens, batch 256, 1,000,000 steps, Adam 1e-4 with decay .01, warm-up 10,000, dropout .1. Bring
a corpus (data.source=text or packed) and a tokenizer of 30,522 pieces. Clip 1, as in its code
(optimization.py). Differences: rows of 512 from the start, a cosine and not a straight line, no
next-sentence task, Adam corrects its bias (theirs does not). GLUE, as published: 79.6.
"""

from jssl.recipes import TEXT_FINETUNE, TINY_TEXT, recipe, text


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="bert",
            steps=1_000_000,
            batch_size=256,
            mask_rate=0.15, whole_words=False,
            data=dict(source="packed", path="", tokenizer="", seq_len=512, workers=2),
            model=text("bert_base", 512, init="bert", dropout=0.1),
            optim=dict(
                name="adamw", lr=1e-4, warmup_steps=10_000, weight_decay=0.01, eps=1e-6,
                clip_norm=1.0,
            ),
            finetune=TEXT_FINETUNE,
        ),
        tiny=TINY_TEXT | {"data.workers": 0, "model.name": "bert_test"},
    )  # fmt: skip
