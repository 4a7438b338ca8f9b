"""From text to tokens, and rows of tokens."""
