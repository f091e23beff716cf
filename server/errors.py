"""What can go wrong, as a tree. Each leaf is named for what happened; `api.errors` meets HTTP in one table.

ServerError
├── InvalidRequest          the request itself cannot be served; names the parameter
│   ├── EmptyInput          nothing to work on
│   ├── ContextTooLong      the prompt, or prompt and answer together, exceed the model
│   ├── AnswerTooLong       more is asked for than an encoder-decoder can write
│   ├── NoMask              a fill-mask text without a mask token
│   └── RequestTooLarge     a bound on size or number was passed
├── ModelNotFound           no model, or adapter, of that name
├── NotEnabled              this server was started without what is asked for
├── TaskUnavailable         no loaded model can do that task
├── Overloaded              the queue is full; says when to come back
├── NotReady                still loading, or shutting down
└── EngineFailed            the engine could not finish the work
"""

from __future__ import annotations

from collections.abc import Iterable


class ServerError(Exception):
    """The root. `str(error)` is one sentence for the caller, never an echo of their input."""


class InvalidRequest(ServerError):
    def __init__(self, message: str, *, parameter: str | None = None) -> None:
        super().__init__(message)
        self.parameter = parameter


class EmptyInput(InvalidRequest):
    def __init__(self, parameter: str = "inputs") -> None:
        super().__init__(f"`{parameter}` cannot be empty", parameter=parameter)


class ContextTooLong(InvalidRequest):
    """`tokens` of prompt (plus `new_tokens` asked for) do not fit the model's `limit`."""

    def __init__(self, *, tokens: int, limit: int, new_tokens: int | None = None) -> None:
        if new_tokens is None:
            message = f"`inputs` must have at most {limit} tokens for this model. Given: {tokens}"
        else:
            message = (
                f"`inputs` tokens + `max_new_tokens` must be <= {limit}. "
                f"Given: {tokens} `inputs` tokens and {new_tokens} `max_new_tokens`"
            )
        super().__init__(message, parameter="inputs")
        self.tokens, self.limit, self.new_tokens = tokens, limit, new_tokens


class AnswerTooLong(InvalidRequest):
    """More tokens are asked for than a decoder can write whose prompt an encoder reads."""

    def __init__(self, *, new_tokens: int, limit: int) -> None:
        super().__init__(
            f"`max_new_tokens` must be <= {limit} for this model. Given: {new_tokens}",
            parameter="max_new_tokens",
        )


class NoMask(InvalidRequest):
    def __init__(self, mask_token: str) -> None:
        super().__init__(f"`inputs` has no mask token; this model's is {mask_token}", parameter="inputs")


class RequestTooLarge(InvalidRequest):
    """A bound was passed; the message says which, and its value."""


class ModelNotFound(ServerError):
    """No model, or adapter, has the name given as `parameter`."""

    def __init__(self, available: Iterable[str], *, parameter: str = "model") -> None:
        what = "model" if parameter == "model" else "adapter"
        loaded = ", ".join(sorted(available)) or "none"
        super().__init__(f"the {what} named in `{parameter}` is not loaded; loaded: {loaded}")


class TaskUnavailable(ServerError):
    def __init__(self, task: str, available: Iterable[str]) -> None:
        names = ", ".join(sorted(available)) or "none"
        super().__init__(f"no loaded model can do {task}; loaded: {names}")


class NotEnabled(ServerError):
    """Whoever starts the server can allow it; the message says how."""


class Overloaded(ServerError):
    """Too much to do; the message says with what, and `retry_after_s` when to come back."""

    def __init__(self, retry_after_s: float, message: str = "Model is overloaded") -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NotReady(ServerError):
    """Nothing can be served yet, or no more."""


class EngineFailed(ServerError):
    """The engine could not finish; the request may be sent again."""
