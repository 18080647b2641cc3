"""Policies on disk and in memory: made from nothing or loaded, their adapters, and how text becomes token ids.

May import: base, config, compute. A new architecture from nothing is a branch of `scratch.new_model`.
"""
