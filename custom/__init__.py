"""Your own reward functions: name one in a task's file by its dotted path, such as custom.example.concise."""
