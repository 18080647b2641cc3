"""Pages that are made from the project when the site is built: its parameters, its commands and its docstrings."""
