"""What MkDocs calls while it builds the site: adds the pages that are made from the project."""

from __future__ import annotations

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from docs.generators import pages, project


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Lists the pages of the library at the end of the reference, and the files beside docs/ at the very end."""
    reference = next(entry["Reference"] for entry in config.nav if "Reference" in entry)
    reference.append({"Library": pages.library()})
    config.nav.append({"Project": [{file: page} for file, page in project.included().items()]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages to those in docs/."""
    for path, text in pages.generated().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lets links that lead out of docs/ lead to the site's page of that file."""
    path = page.file.src_uri
    return markdown if page.file.generated_by else project.linked(markdown, f"{project.DOCS}/{path}", path)
