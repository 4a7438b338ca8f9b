"""One run on disk: its folder, its checkpoints, their checksums, its lock."""
