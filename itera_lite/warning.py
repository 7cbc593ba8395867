"""The warning that Itera-Lite gives where it leaves something out and goes on."""


class IteraWarning(UserWarning):
    """Something that a file asks for and that is left out; the message names it."""
