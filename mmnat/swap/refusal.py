"""What a swap says when it would produce something broken."""


class SwapRefused(ValueError):
    """A config whose backbone cannot be swapped, or a swap that was asked for wrongly.

    The message is for the user: what stands in the way, where, and what to do about it.
    """
