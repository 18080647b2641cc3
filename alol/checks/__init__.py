"""What can be known to be wrong before anything runs. Loads no model and needs no deep-learning library, but for
`memory`, which is asked for alone.

May import: every room. A new check is a generator of lines in `parameters`, or in `reward_parameters` for a kind.
"""
