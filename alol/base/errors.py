"""The one exception that means "the user's input is wrong"; the stages print it as a single line and exit with 1."""


class InputError(ValueError):
    """Bad input: the message says what is wrong, in which file, row or key, and what to do."""


def known(kind: str, name: str, names: object) -> InputError:
    """An error for an unknown name that lists the known ones."""
    return InputError(f"unknown {kind} '{name}'; known: {', '.join(sorted(map(str, names)))}")
