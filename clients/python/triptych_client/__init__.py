"""Talks to Triptych, the text-inference server.

    from triptych_client import Client

    with Client() as client:
        print(client.generate("Once upon a time", max_new_tokens=40).text)
        for piece in client.stream("Once upon a time", max_new_tokens=40):
            print(piece.text, end="", flush=True)
        print(client.fill_mask("Paris is the [MASK] of France.")[0][0].token_str)

`AsyncClient` has the same methods, awaited. What can go wrong is a tree, `TriptychError` at its root.
"""

from triptych_client._async_client import AsyncClient, AsyncStream
from triptych_client._client import Client, Stream
from triptych_client._errors import (
    ConnectionLost,
    InvalidRequest,
    NotFound,
    NotReady,
    Overloaded,
    RequestFailed,
    ServerFailed,
    ServerTimeout,
    ServerUnreachable,
    StreamTruncated,
    TriptychError,
    Unauthorized,
    UnexpectedAnswer,
)
from triptych_client._types import (
    Alternative,
    Generation,
    MaskCandidate,
    Message,
    ModelCard,
    Options,
    Piece,
    TextOptions,
    Token,
    Verdict,
)
from triptych_client._version import __version__

__all__ = [
    "Alternative",
    "AsyncClient",
    "AsyncStream",
    "Client",
    "ConnectionLost",
    "Generation",
    "InvalidRequest",
    "MaskCandidate",
    "Message",
    "ModelCard",
    "NotFound",
    "NotReady",
    "Options",
    "Overloaded",
    "Piece",
    "RequestFailed",
    "ServerFailed",
    "ServerTimeout",
    "ServerUnreachable",
    "Stream",
    "StreamTruncated",
    "TextOptions",
    "Token",
    "TriptychError",
    "Unauthorized",
    "UnexpectedAnswer",
    "Verdict",
    "__version__",
]
