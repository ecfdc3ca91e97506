"""The one exception that means "the input is wrong", as opposed to "the program is wrong"."""


class InputError(ValueError):
    """A file, flag, config field or array that cannot be used.

    The message is one sentence for the person at the keyboard: what is wrong and what to do next.
    The command line prints it without a stack trace and exits with a non-zero code.
    """
