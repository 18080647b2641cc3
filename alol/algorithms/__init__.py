"""What is learned: losses as pure functions of tensors, the registry of algorithms, and what is drawn for training.

May import: base, config. A new algorithm is a loss with an entry in OFFLINE (`offline`) or PAIRS (`pairs`), and its
hyperparameters in params.yaml (docs/extending.md).
"""
