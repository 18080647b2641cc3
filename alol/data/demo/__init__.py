"""The demo's corpus: its topics, its phrases, the generator that writes it, and the oracle that knows true quality.

May import: base, `alol.data.schema`. A new topic is an entry of `topics`.
"""
