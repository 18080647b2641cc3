"""Your own reward functions: name one in params.yaml by its dotted path, such as custom.example.concise."""
