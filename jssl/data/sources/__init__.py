"""Where examples come from: one source per file."""
