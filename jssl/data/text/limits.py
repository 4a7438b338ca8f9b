"""Limits for a tokenizer.json, which may come from anybody and must not exhaust the memory.

The library of tokenizers trusts its file: an id of four billion makes tables of that size, and four
nested replacements make 10^8 characters of one. No program can catch the error when the memory
ends. So this module checks the file before the library gets it.
"""

from collections.abc import Iterator
from typing import Any

ID_LIMIT = 2**22  # sixteen times the largest vocabulary in use
GROWTH_LIMIT = 64  # characters into which normalization may expand one
WORD_LIMIT = 1000  # characters of a word; WordPiece tries all of its parts


def refuse(definition: dict[str, Any]) -> int:
    """Checks a tokenizer.json; returns the largest number of characters it may make of one.

    A file that is not a tokenizer at all is left to the library.

    Args:
      definition: the content of a tokenizer.json.

    Raises:
      ValueError: ids, replacements or words exceed the limits of this module.
    """
    for token, number in _ids(definition):
        if isinstance(number, int) and number >= ID_LIMIT:
            raise ValueError(f"the id of {token!r} is {number}, and {ID_LIMIT:,} are the limit")
    word = definition["model"].get("max_input_chars_per_word") or 0
    if word > WORD_LIMIT:
        raise ValueError(f"max_input_chars_per_word is {word}, and {WORD_LIMIT} is the limit")
    largest = 1
    for name in ("normalizer", "pre_tokenizer", "decoder"):
        growth = _growth(definition.get(name))
        if growth > GROWTH_LIMIT:
            raise ValueError(
                f"its {name} may make a text {growth} times as long; the limit is {GROWTH_LIMIT}"
            )
        largest = max(largest, growth)
    return largest


def _ids(definition: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yields every (token, id) in the file. A list of tokens has no ids of its own."""
    vocab = definition["model"].get("vocab")
    if isinstance(vocab, dict):
        yield from vocab.items()
    yield "unk_id", definition["model"].get("unk_id")
    for token in definition.get("added_tokens") or ():
        yield token["content"], token["id"]


def _growth(component: Any) -> int:
    """Returns the product of the growth of all replacements within a normalizer or decoder.

    A replacement of a text of n characters by m characters makes m / n of each. A replacement of a
    pattern, which may match the empty text, adds m to each.
    """
    if isinstance(component, list):
        product = 1
        for inner in component:
            product *= _growth(inner)
        return product
    if not isinstance(component, dict):
        return 1
    if component.get("type") != "Replace":
        return _growth(list(component.values()))
    content = len(component["content"])
    text = component["pattern"].get("String")
    return max(1, -(-content // len(text))) if text else 1 + content
