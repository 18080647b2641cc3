"""The same numbers, faster or on more machines: batches, packed sequences, log-probabilities, generation, processes.

May import: base, config. A faster way comes with a test that holds it to the plain one.
"""
