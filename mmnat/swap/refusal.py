"""Why a backbone is not swapped."""


class SwapRefused(ValueError):
    """A config whose backbone cannot be swapped, or a swap that was asked for wrongly.

    The message is for the user: it says what prevents the swap, in which field, and what to do about it.
    """
