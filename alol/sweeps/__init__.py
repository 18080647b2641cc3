"""Tables of runs that outlive a machine: which runs, each in a copy of the checkout, and what is left of each.

May import: everything below `stages`. What a finished run leaves is `alol.evaluation.results`.
"""
