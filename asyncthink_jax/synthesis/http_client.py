"""The HTTP client below the one of openai: it reads an answer up to a bound, and sends the key to one place alone.

A body that is compressed is inflated piece by piece and given up at the bound, so that a small answer cannot fill the
memory. A redirect is followed within the endpoint's own address. Any other one is handed back as it came.
"""

from __future__ import annotations

import zlib
from typing import Any

MAX_BODY = 16 << 20  # bytes of an inflated body; the longest completions have a hundredth of that
ENCODING = "gzip"  # asked for; others might inflate without a bound
_REDIRECTS = 3
_FRAMING = ("content-encoding", "content-length", "transfer-encoding")  # headers that no longer hold once it is read


def bounded(base: type[Any], **settings: Any) -> Any:
    """An asynchronous client of httpx whose responses have been read whole when `send` returns them.

    Args:
      base: the class of the client, as openai sets it up.
      settings: of its constructor.

    Its `send` raises ValueError for a body that is longer than MAX_BODY, or that can't be inflated.
    """

    class Bounded(base):
        async def send(self, request: Any, **others: Any) -> Any:
            others |= {"stream": True, "follow_redirects": False}
            response = await super().send(request, **others)
            for _ in range(_REDIRECTS):
                following = response.next_request
                if following is None or _place(following) != _place(request):
                    break
                await response.aclose()
                response = await super().send(following, **others)
            try:
                body = await _body(response)
            finally:
                await response.aclose()
            headers = [(name, value) for name, value in response.headers.multi_items() if name.lower() not in _FRAMING]
            return type(response)(response.status_code, headers=headers, content=body, request=response.request)

    return Bounded(**settings)


def _place(request: Any) -> tuple[str, str, str, int | None]:
    """Where a request goes, and how: a redirect to a GET of the same address has lost the question."""
    return request.method, request.url.scheme, request.url.host, request.url.port


async def _body(response: Any) -> bytes:
    encoding = response.headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity", "gzip", "x-gzip", "deflate"):
        raise ValueError(f"its encoding is {encoding}, and {ENCODING} was asked for")
    inflate = zlib.decompressobj(zlib.MAX_WBITS | 32) if encoding not in ("", "identity") else None  # 32: gzip or zlib
    parts: list[bytes] = []
    size = 0
    async for raw in response.aiter_raw():
        try:
            part = inflate.decompress(raw, MAX_BODY + 1 - size) if inflate else raw
        except zlib.error as error:
            raise ValueError(f"it can't be inflated: {error}") from None
        size += len(part)
        if size > MAX_BODY:
            raise ValueError(f"it has more than {MAX_BODY >> 20} MB")
        parts.append(part)
        if inflate and inflate.eof:
            break
    if inflate and parts and not inflate.eof:
        raise ValueError("its compressed body ends in the middle")
    return b"".join(parts)
