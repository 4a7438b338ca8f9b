"""Numbers with their nouns, for sentences."""


def several(count: int, what: str) -> str:
    """Returns a number with a noun: "1 image", "1,204 images", "2 classes"."""
    ending = "" if count == 1 else "es" if what.endswith("s") else "s"
    return f"{count:,} {what}{ending}"
