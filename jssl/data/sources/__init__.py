"""Sources of examples: one source per file."""
