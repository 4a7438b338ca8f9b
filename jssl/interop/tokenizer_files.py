"""The tokenizer of a run as files that transformers loads."""

import json
import pathlib
from typing import Any

from jssl.data.text.tokenizer import SPECIAL, ByteTokenizer, HFTokenizer

NAMES = {  # ours -> transformers'
    "pad": ("pad_token",),
    "start": ("cls_token", "bos_token"),
    "end": ("sep_token", "eos_token"),
    "mask": ("mask_token",),
}


def write_tokenizer(
    folder: pathlib.Path, tokenizer: ByteTokenizer | HFTokenizer, length: int
) -> None:
    """Writes tokenizer.json and tokenizer_config.json.

    A text gets the start and end tokens that a row of jssl has.

    Args:
      folder: the folder of the model.
      tokenizer: of the run.
      length: largest number of tokens of the model.
    """
    import tokenizers
    from tokenizers import processors

    if isinstance(tokenizer, ByteTokenizer):
        made = byte_level()
    else:
        made = tokenizers.Tokenizer.from_str(tokenizer._tokenizer.to_str())
        made.encode_special_tokens = False
    special = special_tokens(made, tokenizer.vocab)
    start = special["start"]
    end = special["end"]
    made.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}",
        pair=f"{start} $A {end} $B {end}",
        special_tokens=[(start, tokenizer.vocab["start"]), (end, tokenizer.vocab["end"])],
    )
    made.save(str(folder / "tokenizer.json"))
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": length,
        "clean_up_tokenization_spaces": False,
    }
    for ours, theirs in NAMES.items():
        config |= dict.fromkeys(theirs, special[ours])
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")


def special_tokens(tokenizer: Any, vocab: dict[str, int]) -> dict[str, str]:
    """{"pad": "<pad>", ...}: the texts of the special tokens."""
    return {name: tokenizer.id_to_token(vocab[name]) for name in SPECIAL}


def byte_level() -> Any:
    """jssl's byte tokenizer as one of the library `tokenizers`: id 4 + byte."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    vocab = {names[0]: i for i, names in enumerate(SPECIAL.values())}
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for byte in range(256):
        vocab[byte_character(byte)] = len(SPECIAL) + byte
    made: Any = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    made.pre_tokenizer = level
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([names[0] for names in SPECIAL.values()])
    return made


def byte_character(byte: int) -> str:
    """The character that stands for a byte in byte-level BPE (openai/gpt-2 src/encoder.py)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    if byte in plain:
        return chr(byte)
    others = [other for other in range(256) if other not in plain]
    return chr(256 + others.index(byte))
