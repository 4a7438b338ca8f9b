"""What a tokenizer.json may not ask for: it may come from anybody, and must not exhaust the memory.

The library of tokenizers obeys its file: an id of four billion makes tables of that size, four
nested replacements make 10^8 characters of one, and no error can be caught when the memory ends.
So the file is looked at before the library gets it.
"""

from collections.abc import Iterator
from typing import Any

ID_LIMIT = 2**22  # sixteen times the largest vocabulary that is in use
GROWTH_LIMIT = 64  # characters that normalization may make of one
WORD_LIMIT = 1000  # characters of a word that WordPiece tries all parts of


def refuse(described: dict[str, Any]) -> int:
    """How many characters its replacements make of one, at most.

    described  the content of a tokenizer.json

    Raises ValueError for ids, replacements and words beyond the limits of this module. What is no
    tokenizer at all is left to the library to say.
    """
    for token, number in _ids(described):
        if isinstance(number, int) and number >= ID_LIMIT:
            raise ValueError(f"the id of {token!r} is {number}, and {ID_LIMIT:,} are the limit")
    word = described["model"].get("max_input_chars_per_word") or 0
    if word > WORD_LIMIT:
        raise ValueError(f"max_input_chars_per_word is {word}, and {WORD_LIMIT} is the limit")
    largest = 1
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        growth = _growth(described.get(part))
        if growth > GROWTH_LIMIT:
            raise ValueError(
                f"its {part} may make a text {growth} times as long; the limit is {GROWTH_LIMIT}"
            )
        largest = max(largest, growth)
    return largest


def _ids(described: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every (token, id) that the file gives. A list of tokens numbers them itself."""
    vocab = described["model"].get("vocab")
    if isinstance(vocab, dict):
        yield from vocab.items()
    yield "unk_id", described["model"].get("unk_id")
    for token in described.get("added_tokens") or ():
        yield token["content"], token["id"]


def _growth(part: Any) -> int:
    """The product of what all replacements within a normalizer or decoder may do.

    A replacement of a text of n characters by m makes m / n of each; one of a pattern, which may
    match nothing at all, adds m to each.
    """
    if isinstance(part, list):
        product = 1
        for inner in part:
            product *= _growth(inner)
        return product
    if not isinstance(part, dict):
        return 1
    if part.get("type") != "Replace":
        return _growth(list(part.values()))
    content = len(part["content"])
    text = part["pattern"].get("String")
    return max(1, -(-content // len(text))) if text else 1 + content
