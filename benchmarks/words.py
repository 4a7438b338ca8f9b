"""SST-2 without a network: what the words of a sentence say by themselves, as JSON.

    python benchmarks/words.py --data=DATA --out=benchmarks/results

Logistic regression on which words a sentence has, learned from the sentences that
`benchmarks/transfer.py` fine-tunes on; its strength is chosen on the validation split. An encoder
that is not above it has not been shown to know more of a sentence than its words.
"""

import argparse
import datetime
import json
import pathlib

from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from step import commit

from jssl.data.text import corpora

LABELS = {"all labels": "train", "a tenth of the labels": "train[:10%]"}


def sentences(data: str, split: str):
    """(sentences, labels) of a split."""
    corpus = corpora.open_corpus(source="tfds", name="sst2", path="", dir=data, split=split)
    _, found, labels = zip(*corpora.pieces(corpus, corpora.Tally()), strict=True)
    return found, labels


def bag_of_words(data: str, split: str) -> float:
    """Accuracy on the test split of what was learned from `split`."""
    words, labels = sentences(data, split)
    held_out = [sentences(data, name) for name in ("validation", "test")]
    bag = CountVectorizer(binary=True, token_pattern=r"[^\W\d_]+|[^\w\s]")
    x, fits = bag.fit_transform(words), []
    for strength in (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0):
        fitted = LogisticRegression(C=strength, max_iter=1000).fit(x, labels)
        fits.append([fitted.score(bag.transform(asked), known) for asked, known in held_out])
    return max(fits)[1]  # the best on validation


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", required=True, help="folder with TFDS's data sets")
    parser.add_argument("--out", required=True, help="folder for the JSON file")
    given = parser.parse_args()
    found = {
        "words_alone": {name: bag_of_words(given.data, split) for name, split in LABELS.items()},
        "command": "python benchmarks/words.py --data=DATA",
        "commit": commit(),
        "device": "cpu",
        "date": datetime.date.today().isoformat(),
    }
    path = pathlib.Path(given.out) / f"words-cpu-{found['date']}.json"
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
