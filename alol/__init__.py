"""A-LoL: offline reinforcement learning for language models (arXiv 2305.14718)."""

__version__ = "0.1.0"
