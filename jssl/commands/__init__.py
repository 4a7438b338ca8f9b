"""One `jssl` command per file."""
