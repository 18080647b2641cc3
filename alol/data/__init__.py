"""From a source to rows: fetching, unpacking, cleaning, and the schema of every Parquet table.

May import: base, config. A new convention of raw files is a module of `formats`; a new column belongs into `schema`.
"""
