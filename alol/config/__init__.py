"""params.yaml and the task files: read, merged, checked against their ranges, as frozen dataclasses; every path.

May import: base. A new parameter is a field of `sections` with its range, and a line with a comment in its YAML file.
"""
