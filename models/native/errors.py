"""Why a model does not run on the kernels."""


class Unsupported(Exception):
    """There is no operation for a part of the model. The message names it."""
