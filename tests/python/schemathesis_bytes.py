"""Bytes of files, as schemathesis sends them: it knows the media type of tus by this alone."""

import schemathesis


@schemathesis.serializer("application/offset+octet-stream")
def offset_octet_stream(context, value):
    return value if isinstance(value, bytes) else str(value).encode()
