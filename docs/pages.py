"""Makes the pages of the site that are generated: {address: Markdown}.

This module imports nothing of MkDocs, so that the tests can use it. `docs/hooks.py` gives the pages
to MkDocs. A method, a recipe, a command or a result file needs no edit here.
"""

import ast
import html
import json
import posixpath
import re
import sys
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "benchmarks"))  # the benchmarks are scripts and no package

import report  # noqa: E402

# Files of the repository that are pages of the site: {path: address}. Those outside docs/ are
# included as they are.
INCLUDED = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "design.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/RESULTS.md": "results.md",
    "benchmarks/NOTES.md": "notes.md",
}
LINK = re.compile(r"(?<=\]\()([^)\s#]+)(#[^)\s]*)?(?=\))")
ARXIV = re.compile(r"arXiv\s+(\d{4}\.\d{4,5})")
ADDRESS = re.compile(r"(?<![\[(<])https://[^\s;,)]+")
# These commits measured version 2 of DeepCluster under the name "deepcluster". It has been a method
# of its own since then (CHANGELOG.md).
BEFORE_DEEPCLUSTER_V2 = ("f994459", "3a808e6", "96ea839")


class Recipe(NamedTuple):
    """A file of configs/.

    Attributes:
      name: the name of the file, without its ending.
      method: the value of its key `method`.
      command: the first line of its docstring.
      text: the rest of its docstring: settings, published figures, differences.
      variants: the names of its variants.
      code: the file.
    """

    name: str
    method: str
    command: str
    text: str
    variants: list[str]
    code: str


class Method(NamedTuple):
    """A file of jssl/methods/.

    Attributes:
      name: the name of the module.
      title: the name of the method, as its docstring begins.
      paper: the title of its first paper.
      link: the address of that paper, or "".
      text: its docstring.
      code: the file.
      recipes: the recipes of this method.
    """

    name: str
    title: str
    paper: str
    link: str
    text: str
    code: str
    recipes: list[Recipe]


def pages() -> dict[str, str]:
    """Returns all generated pages."""
    made = {address: included(path) for path, address in INCLUDED.items()}
    found = methods()
    results = measurements()
    made["methods/index.md"] = method_index(found, results)
    made |= {f"methods/{method.name}.md": method_page(method, results) for method in found}
    made["reference/commands.md"] = command_page()
    made["reference/config.md"] = config_page()
    return made


# -- files of the repository ----------------------------------------------------------------------


def included(path: str) -> str:
    """Returns a file of the repository as a page: its links lead to pages of the site."""
    return site_links((ROOT / path).read_text(encoding="utf-8"), path, INCLUDED[path])


def site_links(text: str, path: str, address: str) -> str:
    """Rewrites relative links between files of the repository to links between pages.

    Args:
      text: Markdown.
      path: the file that holds it, relative to the repository.
      address: the address of its page.
    """

    def page(match: re.Match[str]) -> str:
        target, anchor = match[1], match[2] or ""
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        file = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
        there = INCLUDED.get(file, file.removeprefix("docs/"))
        return posixpath.relpath(there, posixpath.dirname(address) or ".") + anchor

    return LINK.sub(page, text)


# -- methods --------------------------------------------------------------------------------------


def recipes() -> list[Recipe]:
    """Reads all recipes. They are parsed, and not executed."""
    return [read_recipe(path) for path in sorted((ROOT / "configs").glob("*.py"))]


def read_recipe(path: Path) -> Recipe:
    """Reads a recipe; raises `ValueError` if it names no method."""
    code = path.read_text(encoding="utf-8")
    tree = ast.parse(code)
    command, _, text = (ast.get_docstring(tree) or "").partition("\n")
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    keywords = [(call, keyword) for call in calls for keyword in call.keywords]
    names = [
        keyword.value.value
        for _, keyword in keywords
        if keyword.arg == "method" and isinstance(keyword.value, ast.Constant)
    ]
    if not names:
        raise ValueError(f"{path} has no literal method=")
    variants = [
        keyword.arg
        for call, keyword in keywords
        if isinstance(call.func, ast.Name) and call.func.id == "recipe" and keyword.arg
    ]
    return Recipe(path.stem, str(names[0]), command.strip(), text.strip(), variants, code)


def methods() -> list[Method]:
    """Reads all methods, sorted by name. They are parsed, and not imported."""
    by_method: dict[str, list[Recipe]] = {}
    for recipe in recipes():
        by_method.setdefault(recipe.method, []).append(recipe)
    paths = sorted((ROOT / "jssl" / "methods").glob("*.py"))
    return [
        read_method(path, by_method.get(path.stem, [])) for path in paths if path.stem != "__init__"
    ]


def read_method(path: Path, recipes: list[Recipe]) -> Method:
    """Reads a method; raises `ValueError` if its docstring does not begin `Name: "Title"`."""
    code = path.read_text(encoding="utf-8")
    text = ast.get_docstring(ast.parse(code)) or ""
    begin = re.match(r'([^:"]+):\s+"([^"]+)"', text)
    if begin is None:
        raise ValueError(f'{path}: the docstring must begin with the paper, as in MoCo: "..."')
    arxiv = ARXIV.search(text)
    address = ADDRESS.search(text)
    link = f"https://arxiv.org/abs/{arxiv[1]}" if arxiv else address[0] if address else ""
    paper = " ".join(begin[2].split())
    return Method(path.stem, begin[1].strip(), paper, link, text, code, recipes)


def with_links(text: str) -> str:
    """Makes links of the arXiv numbers and addresses in a docstring."""
    text = ADDRESS.sub(r"<\g<0>>", text)
    return ARXIV.sub(r"[arXiv \1](https://arxiv.org/abs/\1)", text)


def method_index(found: list[Method], results: list[dict[str, Any]]) -> str:
    """Returns the table of all methods."""
    lines = [
        "# Methods",
        "",
        "Each method is one file of `jssl/methods/`. These pages are made from the files: from the",
        "docstrings of methods and recipes, and from the files of benchmarks/results/.",
        "",
        "| method | paper | recipes | measured |",
        "|---|---|---|---|",
    ]
    for method in found:
        paper = f"[{method.paper}]({method.link})" if method.link else method.paper
        names = ", ".join(f"`{recipe.name}`" for recipe in method.recipes)
        sections = [heading for heading, _, _ in MEASURED if measured(method, heading, results)]
        links = [f"[{heading}]({method.name}.md#measured)" for heading in sections]
        cells = (
            f"[{method.title}]({method.name}.md)",
            paper,
            names or "none",
            ", ".join(links) or "not measured yet",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def method_page(method: Method, results: list[dict[str, Any]]) -> str:
    """Returns the page of a method."""
    parts = [
        f"# {method.title}",
        f'`method="{method.name}"`, in `jssl/methods/{method.name}.py`.',
        with_links(method.text),
        folded(f"jssl/methods/{method.name}.py", method.code),
        "## Recipes",
        "Each recipe states its settings, the published figures, and the differences from its "
        "source. DATA is the folder of the data set.",
    ]
    if not method.recipes:
        parts.append("There is no recipe of this method.")
    for recipe in method.recipes:
        parts += recipe_section(recipe)
    if keys := own_keys(method):
        values = {f"config.{key.name}": key.value for key in keys}
        parts += [
            "## Config keys",
            f"These keys are in addition to the [shared ones](../reference/config.md). The values "
            f"are those of `{method.recipes[0].name}`, or of the first recipe that has the key.",
            "\n".join(key_table(keys, values)),
        ]
    parts += ["## Measured", *measured_sections(method, results)]
    return "\n\n".join(parts) + "\n"


def recipe_section(recipe: Recipe) -> list[str]:
    """Returns the paragraphs about a recipe."""
    variants = ", ".join(f"`{recipe.name}:{variant}`" for variant in recipe.variants)
    return [
        f"### {recipe.name}",
        f"```sh\n{recipe.command}\n```",
        with_links(textwrap.dedent(recipe.text)),
        f"Variants: {variants}." if variants else "",
        folded(f"configs/{recipe.name}.py", recipe.code),
    ]


def folded(title: str, code: str) -> str:
    """Returns a file of Python in a box that a reader can open."""
    block = f"````python\n{code.rstrip()}\n````"
    return f'??? abstract "{title}"\n\n{textwrap.indent(block, "    ")}'


# -- measurements ---------------------------------------------------------------------------------

# (heading, a key of the results of this kind, the function of benchmarks/report.py). Plans are no
# measurements; they have a section of their own.
MEASURED = (
    ("CIFAR-10", "method", report.compared),
    ("With and without pretraining", "evaluations", report.transfer),
    ("Training runs", "train", report.runs),
)


def measurements() -> list[dict[str, Any]]:
    """Reads benchmarks/results/*.json."""
    paths = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def kind_of(result: dict[str, Any]) -> str:
    """Returns the heading in `MEASURED` of a result, "Plans", or "" for others."""
    if "plan" in result:
        return "Plans"
    return next((heading for heading, key, _ in MEASURED if key in result), "")


def method_of(result: dict[str, Any]) -> str:
    """Returns the name of the method that a result measures; "" if it measures none."""
    kind = kind_of(result)
    if kind == "Plans":
        name = result["config"]
    elif kind == "CIFAR-10":
        name = result["method"]
    elif kind == "With and without pretraining":
        name = result["task"]
    else:
        command = re.search(r"configs/(\w+)\.py", str(result.get("command")))
        by_recipe = {recipe.name: recipe.method for recipe in recipes()}
        name = by_recipe.get(command[1], "") if command and kind else ""
    if name == "deepcluster" and result["commit"] in BEFORE_DEEPCLUSTER_V2:
        return "deepcluster_v2"
    return name


def measured(method: Method, kind: str, results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the results of a kind that measure a method."""
    return [
        result for result in results if kind_of(result) == kind and method_of(result) == method.name
    ]


def measured_sections(method: Method, results: list[dict[str, Any]]) -> list[str]:
    """Returns the measured figures of a method, each with its command, commit and device."""
    parts = []
    for heading, _, write in MEASURED:
        own = measured(method, heading, results)
        if heading == "CIFAR-10" and own:  # to compare with an encoder of random weights
            own += [result for result in results if result.get("method") == "untrained"]
        if own:
            parts += [f"### {heading}", without_heading(write(own))]
    if any(recipe.name == "simclr_digits" for recipe in method.recipes):
        parts += ["### Demo", demo_figures()]
    if not parts:
        parts.append("Not measured yet.")
    if plans := measured(method, "Plans", results):
        parts += ["## Plans", without_heading(report.plans(plans))]
    return parts


def without_heading(section: str) -> str:
    """Drops the first line of a section of RESULTS.md."""
    heading, _, rest = section.partition("\n")
    return rest.strip() if heading.startswith("#") else section


def demo_figures() -> str:
    """Returns the figures of `make demo` as README.md has them."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return text.partition("<!-- demo -->")[2].partition("<!-- end of demo -->")[0].strip()


# -- reference ------------------------------------------------------------------------------------


def command_page() -> str:
    """Returns the page of all commands with their flags, as the parser has them."""
    from jssl.commands import arguments

    lines = ["# Commands", "", "```text"]
    lines += ["jssl COMMAND [--FLAG=VALUE ...] [--config.KEY=VALUE ...]", "```", ""]
    lines += [
        "Progress and logs go to stderr. The last line on stdout is one JSON object.",
        "[Exit codes](exit_codes.md) tell how a command ended. `--config.KEY=VALUE` sets one key",
        "of the config: `--config.optim.lr=0.3`. [Config keys](config.md) lists the keys.",
        "`jssl --version` prints the version, and `jssl COMMAND --help` the flags of a command.",
        "",
        "| command | what it does |",
        "|---|---|",
    ]
    for name, command in arguments.COMMANDS.items():
        lines.append(f"| [jssl {name}](#jssl-{name.replace(' ', '-')}) | {command.help} |")
    for name, command in arguments.COMMANDS.items():
        lines += ["", f"## jssl {name}", "", f"`jssl {name}` {command.help}."]
        if command.flags:
            lines += ["", "| flag | default | meaning |", "|---|---|---|"]
        for flag, (text, default) in command.flags.items():
            shown = f"--{flag}" if default is False else f"--{flag}=..."
            value = f"`{default}`" if default and isinstance(default, str) else ""
            lines.append(f"| `{shown}` | {value} | {escaped(text)} |")
    return "\n".join(lines) + "\n"


# Sections of every recipe, and one recipe that has the keys of a family or of all views.
SHARED_SECTIONS = {
    "mesh": "the devices",
    "data": "the data set",
    "optim": "the optimizer",
    "checkpoint": "checkpoints",
    "eval": "evaluations",
    "finetune": "fine-tuning",
    "alarm": "alarms",
    "log": "metrics, pictures, profiles",
    "model": "the encoder",
    "augment": "the view of an image",
}
FAMILIES = {"ResNet": "simclr_imagenet", "ViT": "mae_vitb_imagenet", "text": "bert_base"}


def config_page() -> str:
    """Returns the page of the config keys that recipes share."""
    from jssl.config import flatten, load
    from jssl.recipes import recipe

    defaults = flatten(recipe("", {}))
    keys = shared_keys(load(FAMILIES["ResNet"]))
    lines = [
        "# Config keys",
        "",
        "Set a key as `--config.KEY=VALUE` on the command line, or as `jssl.recipe(name, "
        "section__key=value)` in",
        "Python. `jssl config --config=NAME` prints the keys of a recipe with their values. The "
        "keys of a",
        "method are on [its page](../methods/index.md). A recipe sets the keys without a value.",
        "",
        "## Top level",
        "",
        *key_table([key for key in keys if "." not in key.name], defaults),
    ]
    for section, meaning in SHARED_SECTIONS.items():
        lines += ["", f"## {section}: {meaning}", ""]
        if section == "model":
            for family, name in FAMILIES.items():
                own = [key for key in shared_keys(load(name)) if key.name.startswith("model.")]
                values = {f"config.{key.name}": key.value for key in own}
                lines += [f"### {family}", "", f"The values are those of `{name}`.", ""]
                lines += [*key_table(own, values), ""]
            continue
        own = [key for key in keys if key.name.startswith(f"{section}.")]
        values = defaults
        if section == "augment":
            values = {f"config.{key.name}": key.value for key in own}
            lines += [f"The values are those of `{FAMILIES['ResNet']}`.", ""]
        lines += key_table(own, values)
    return "\n".join(lines) + "\n"


def shared_keys(config: Any) -> list[Any]:
    """Lists the keys of a config that many recipes have, as `jssl.config.reference.keys` does."""
    from jssl.config import reference, schema

    def is_shared(key: str) -> bool:
        section, _, _ = key.rpartition(".")
        return section in SHARED_SECTIONS if section else key in schema.TOP

    return [key for key in reference.keys(config) if is_shared(key.name)]


def own_keys(method: Method) -> list[Any]:
    """Lists the keys of the recipes of a method that are not on the page of shared keys."""
    from jssl.config import load, reference, schema

    found = {}
    for recipe in method.recipes:
        for key in reference.keys(load(recipe.name)):
            section, _, _ = key.name.rpartition(".")
            shared = section in SHARED_SECTIONS if section else key.name in schema.TOP
            if not shared:
                found.setdefault(key.name, key)
    return sorted(found.values(), key=lambda key: ("." in key.name, key.name))


def key_table(keys: list[Any], values: dict[str, Any]) -> list[str]:
    """Returns the lines of a table of keys.

    Args:
      keys: of `jssl.config.reference`.
      values: {"config.section.key": value} for the second column.
    """
    lines = ["| key | value | type | meaning |", "|---|---|---|---|"]
    for key in keys:
        path = f"config.{key.name}"
        value = f"`{values[path]!r}`" if path in values else ""
        cells = (f"`{key.name}`", value, escaped(key.kind), escaped(key.meaning))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return lines


def escaped(text: str) -> str:
    """Returns plain text as Markdown: "<mask>" is no tag there."""
    return html.escape(text, quote=False).replace("*", "\\*")
