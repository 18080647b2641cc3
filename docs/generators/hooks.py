"""What MkDocs calls while it builds the site: adds the pages that are made from the project."""

from __future__ import annotations

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from docs.generators import pages


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Lists the pages of the library at the end of the reference."""
    reference = next(entry["Reference"] for entry in config.nav if "Reference" in entry)
    reference.append({"Library": list(pages.library())})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages to those in docs/."""
    for path, text in pages.generated().items():
        files.append(File.generated(config, path, content=text))
    return files
