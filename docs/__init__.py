"""The documents: pages in Markdown, and in `generators` what makes the reference from the project itself."""
