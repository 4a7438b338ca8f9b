"""One run in memory: set up from its config, stepped, observed, and ended."""
