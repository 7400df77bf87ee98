"""What mkdocs builds beside the pages of this folder: the catalogue, the API, the results, and the files they name."""

import posixpath
import re
import shutil
from pathlib import Path

from api_pages import api, golden_sources, navigation
from catalogue_page import catalogue_page
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import Abort
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from lightning_losses.experiments.messages import message, refused

ROOT = Path(__file__).parents[1]
# Files of the repository outside this folder, as pages.
PAGES = {"results.md": "RESULTS.md", "changelog.md": "CHANGELOG.md"}
# The folders of pages that recipes and benchmarks write.
RESULTS = ("results", "benchmarks")
# The folder of the site that is built; who hears of an error is not told it.
_site: list[str] = []
# What a link leads to, if not away or to a place on its page.
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]+)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill in the pages that are not written by hand: those of the experiments, and the API's."""
    assert config.nav is not None
    _site[:] = [config.site_dir]
    for section in config.nav:
        if "Results" in section:
            pages = [path for folder in RESULTS for path in sorted((ROOT / "docs" / folder).glob("*.md"))]
            section["Results"] += [_heading(path) for path in pages]
        if "API" in section:
            section["API"] = navigation()
    return config


def _heading(path: Path) -> dict[str, str]:
    """A page by its heading."""
    title = path.read_text().partition("\n")[0].removeprefix("# ")
    return {title: path.relative_to(ROOT / "docs").as_posix()}


def on_build_error(error: Exception) -> None:
    """Leave in one sentence where the disk or the folder of the site refuses it; half a site is removed."""
    if isinstance(error, OSError) and refused(error):
        shutil.rmtree(_site[0], ignore_errors=True)
        raise Abort(f"{message(error)} When that is mended, the same command builds the site.")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made of the classes, and the files of the repository that pages name."""
    made = {**api(), "catalogue.md": catalogue_page()}
    made |= {page: (ROOT / source).read_text() for page, source in PAGES.items()}
    texts = made | {file.src_uri: file.content_string for file in files.documentation_pages()}
    named = {_target(link, page) for page, text in texts.items() for link in LINK.findall(text)}
    outside = {name for name in named if not name.startswith("docs/")} - set(PAGES.values())
    made |= {f"source/{name}.txt": (ROOT / name).read_text() for name in sorted(outside)}
    for path, text in made.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point the links of files outside this folder, and those that leave it, at what stands in their place."""
    uri = page.file.src_uri
    if uri.startswith(tuple(f"{folder}/" for folder in RESULTS)):
        # Their tables are wide.
        page.meta["hide"] = ["toc"]
    if uri == "golden_cases.md":
        markdown += golden_sources()
    return LINK.sub(lambda found: f"]({_place(_target(found[1], uri), uri)}", markdown)


def _target(link: str, page: str) -> str:
    """What a page's link leads to, from the root of the repository."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(PAGES.get(page, f"docs/{page}")), link))


def _place(target: str, page: str) -> str:
    """Where that is among the pages, from one of them."""
    sources = {source: uri for uri, source in PAGES.items()}
    uri = target.removeprefix("docs/") if target.startswith("docs/") else sources.get(target, f"source/{target}.txt")
    return posixpath.relpath(uri, posixpath.dirname(page))
