"""Who imports whom: a method imports no other method, and imports go down the list of
ARCHITECTURE.md, but for the exceptions that it names."""

import ast

from conftest import ROOT

LAYERS = (
    ("cli", "__main__"),
    ("commands", "python"),
    ("reports",),
    ("training",),
    ("interop",),
    ("methods", "evals", "workdir", "perf"),
    ("nn",),
    ("losses", "metrics", "optim", "transforms", "data"),
    ("ops",),
    ("parallel",),
    ("recipes",),
    ("config",),
    ("core", "errors", "log"),
)
LEVEL = {name: len(LAYERS) - i for i, names in enumerate(LAYERS) for name in names}
UPWARD = {  # the exceptions, (module, what it imports)
    ("config.schema", "data"), ("config.schema", "optim"), ("config.schema", "parallel"),
    ("config.schema", "transforms"), ("config.durations", "methods"),
    ("config.reference", "methods"), ("config.reference", "nn"),
    ("config.reference", "transforms"), ("config.loading", "recipes"),
    ("parallel.agreement", "data"),
    ("evals.finetune", "training"), ("evals.generation", "training"),
    ("evals.language", "training"), ("evals.online", "training"),
    ("perf.memory", "training"),
}  # fmt: skip


def modules():
    """{dotted name below jssl: the dotted names below jssl that it imports}."""
    found = {}
    for path in sorted((ROOT / "jssl").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT / "jssl").with_suffix("").parts)
        imported = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jssl"):
                base = node.module.removeprefix("jssl").removeprefix(".")
                imported |= {f"{base}.{alias.name}".strip(".") for alias in node.names}
            if isinstance(node, ast.Import):
                imported |= {
                    alias.name.removeprefix("jssl.")
                    for alias in node.names
                    if alias.name.startswith("jssl.")
                }
        found[name.removesuffix(".__init__")] = imported
    return found


def test_a_method_imports_no_other_method():
    """But `multitask`, which is made of others and loads them by name."""
    for name, imported in modules().items():
        if name.startswith("methods.") and name != "methods.multitask":
            assert not [other for other in imported if other.startswith("methods")], name


def test_imports_go_down():
    upward = set()
    for name, imported in modules().items():
        top = name.partition(".")[0]
        if top == "__init__":
            continue
        for other in imported:
            below = other.partition(".")[0]
            if LEVEL.get(below, 0) > LEVEL[top]:
                upward.add((name, below))
    assert upward == UPWARD


def test_architecture_names_every_module():
    """But methods and commands: their folders hold one of each."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    files = [path for path in (ROOT / "jssl").rglob("*.py") if path.name != "__init__.py"]
    files = [path for path in files if path.parent.name not in ("methods", "commands")]
    assert not [str(path) for path in files if f"`{path.name}`" not in text]
