"""`InputError`: what the user can mend; the programs print it without a traceback."""


class InputError(ValueError):
    """Wrong input: what was passed, what was expected, and how to mend it."""
