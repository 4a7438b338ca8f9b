"""jssl train --config=configs/bert_continue.py --config.init_from=WEIGHTS \\
    --config.data.tokenizer=WEIGHTS/tokenizer.json --config.data.path=TEXTS --workdir=runs/bert_more

Continues the pretraining of a released BERT-base on text of your own, for example of one domain
("Don't Stop Pretraining", Gururangan et al. 2020, arXiv 2004.10964). WEIGHTS is a folder of
transformers (`bert-base-uncased`), with its tokenizer.json, on this machine. RoBERTa-base needs
--config.model.norm_eps=1e-5. Settings of that paper (appendix B, table 13): batch 2,048 for 12,500
steps, peak rate 5e-4 with a warm-up of 6 %, decay .01, Adam .9 / .98 / 1e-6; here batch 256 and
the rate 1e-4 for one to eight GPUs, and a cosine instead of a straight line.
"""

from jssl.recipes import TEXT_FINETUNE, TINY_TEXT, recipe, text


def get_config(variant=""):
    return recipe(
        variant,
        dict(
            method="bert",
            steps=12_500,
            batch_size=256,
            mask_rate=0.15, whole_words=False,
            data=dict(source="text", path="", tokenizer="", seq_len=512, workers=2),
            model=text("bert_base", 512, init="bert", dropout=0.1),
            optim=dict(
                name="adamw", lr=1e-4, warmup_steps=750, weight_decay=0.01, b2=0.98, eps=1e-6,
                clip_norm=1.0,
            ),
            finetune=TEXT_FINETUNE,
        ),
        tiny=TINY_TEXT | {"data.workers": 0, "model.name": "bert_test"},
    )  # fmt: skip
