"""Hooks of MkDocs: adds the generated pages and the notebooks, and checks the built pages."""

import html.parser
import logging
import posixpath
import re
import sys
import tempfile
from pathlib import Path

import nbconvert
import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert.preprocessors import ExecutePreprocessor
from traitlets.config import Config

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS))

import pages  # noqa: E402

log = logging.getLogger("mkdocs.hooks.jssl")
SECONDS = 3600  # for one cell of a notebook, on a busy machine
STARTUP = 300  # seconds until a notebook begins
FROM_CSS = re.compile(r"url\(['\"]?((?:https?:)?//[^)]*)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Lists the methods in the navigation."""
    found = pages.methods()
    listed = ["methods/index.md", *(f"methods/{method.name}.md" for method in found)]
    for entry in config.nav or []:
        if isinstance(entry, dict) and "Methods" in entry:
            entry["Methods"] = listed
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages and the notebooks."""
    for address, text in pages.pages().items():
        files.append(File.generated(config, address, content=text))
    for path in sorted(DOCS.glob("*.ipynb")):
        text, images = notebook(path, config.extra["run_notebooks"])
        files.append(File.generated(config, f"{path.stem}.md", content=text))
        for name, content in images.items():
            files.append(File.generated(config, name, content=content))
    return files


def notebook(path: Path, run: bool) -> tuple[str, dict[str, bytes]]:
    """Runs a notebook in an empty folder; returns (Markdown, {address: image})."""
    book = nbformat.read(path, as_version=4)
    if run:
        log.info("running %s", path.name)
        with tempfile.TemporaryDirectory() as folder:
            # Through a file, so that no port of this machine is opened.
            socket = {"transport": "ipc", "ip": posixpath.join(folder, ".kernel")}
            runner = ExecutePreprocessor(
                timeout=SECONDS, startup_timeout=STARTUP, config=Config({"KernelManager": socket})
            )
            runner.preprocess(book, {"metadata": {"path": folder}})
    for cell in book.cells:  # progress and warnings of libraries
        if cell.cell_type == "code":
            cell.outputs = [each for each in cell.outputs if each.get("name") != "stderr"]
    exporter = nbconvert.MarkdownExporter()
    text, resources = exporter.from_notebook_node(
        book, resources={"output_files_dir": f"{path.stem}_files"}
    )
    return text.replace(".ipynb)", ".md)"), resources["outputs"]


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrites links of written pages to files that are included, such as ../ARCHITECTURE.md."""
    address = page.file.src_uri
    if not (DOCS / address).is_file():
        return markdown
    return pages.site_links(markdown, posixpath.join("docs", address), address)


class Loaded(html.parser.HTMLParser):
    """Collects what a browser loads for a page from other hosts."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        address = values.get("href") if tag == "link" else values.get("src")
        if tag == "link" and values.get("rel") == "canonical":
            return
        if address and address.startswith(("http:", "https:", "//")):
            self.addresses.append(address)


def on_post_build(config: MkDocsConfig) -> None:
    """Warns, and so fails a strict build, about pages that load anything from another host."""
    for path in sorted(Path(config.site_dir).rglob("*.html")):
        parser = Loaded()
        parser.feed(path.read_text(encoding="utf-8"))
        for address in parser.addresses:
            log.warning("%s loads %s", path.relative_to(config.site_dir), address)
    for path in sorted(Path(config.site_dir).rglob("*.css")):
        for address in FROM_CSS.findall(path.read_text(encoding="utf-8")):
            log.warning("%s loads %s", path.relative_to(config.site_dir), address)
