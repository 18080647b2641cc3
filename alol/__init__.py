"""A-LoL: offline reinforcement learning for language models (arXiv 2305.14718)."""
