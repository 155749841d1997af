"""Calls the service through ADDRESS with TOKEN; prints one JSON line a step. For `stream` it goes on after a line of input."""

import json
import sys

import grpc

address, token = sys.argv[1:]
same = lambda data: data
channel = grpc.insecure_channel(address)
bearer = (("authorization", "Bearer " + token),)


def tell(**what):
    print(json.dumps(what), flush=True)


def call(kind, method, request, metadata=bearer):
    return getattr(channel, kind)(method, same, same)(request, metadata=metadata, timeout=30)


def status(error):
    return dict(code=error.code().value[0], words=error.details())


answer, done = channel.unary_unary("/t.T/Unary", same, same).with_call(b"hello", metadata=bearer, timeout=30)
tell(step="unary", answer=answer.decode(), trailers=dict(done.trailing_metadata()))
for step, method, request, metadata in [
    ("fail", "/t.T/Unary", b"fail", bearer),
    ("anonymous", "/t.T/Unary", b"x", ()),
    ("forged", "/t.T/Unary", b"x", (("authorization", "Bearer a.b.c"),)),
    ("scope", "/scoped.T/Unary", b"x", bearer),
    ("dead", "/dead.T/Unary", b"x", bearer),
]:
    try:
        call("unary_unary", method, request, metadata)
        tell(step=step, code=0)
    except grpc.RpcError as error:
        tell(step=step, **status(error))
answers = call("stream_stream", "/t.T/Echo", iter([b"one", b"two"]))
tell(step="both", answers=[answer.decode() for answer in answers])

stream = call("unary_stream", "/t.T/Count", b"3")
tell(step="stream", answers=[next(stream).decode() for _ in range(3)])
try:
    for _ in stream:
        pass
    tell(step="cut", code=0)
except grpc.RpcError as error:
    tell(step="cut", **status(error))
