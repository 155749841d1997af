"""Calls the service through ADDRESS with TOKEN; prints one JSON line a step. With a third argument, a stream is all."""

import json
import sys

import grpc

address, token, *only = sys.argv[1:]
same = lambda data: data
LARGE = 16 << 20
channel = grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", LARGE)])
bearer = (("authorization", "Bearer " + token),)


def tell(**what):
    print(json.dumps(what), flush=True)


def call(kind, method, request, metadata=bearer, timeout=30):
    return getattr(channel, kind)(method, same, same)(request, metadata=metadata, timeout=timeout)


def status(error):
    return dict(code=error.code().value[0], words=error.details())


if only:
    stream = call("unary_stream", "/t.T/Count", b"1")
    try:
        tell(step="stream", answers=[answer.decode() for answer in stream])
    except grpc.RpcError as error:
        tell(step="cut", **status(error))
    sys.exit()
answer, done = channel.unary_unary("/t.T/Unary", same, same).with_call(b"hello", metadata=bearer, timeout=30)
tell(step="unary", answer=answer.decode(), trailers=dict(done.trailing_metadata()))
for step, method, request, metadata in [
    ("fail", "/t.T/Unary", b"fail", bearer),
    ("anonymous", "/t.T/Unary", b"x", ()),
    ("forged", "/t.T/Unary", b"x", (("authorization", "Bearer a.b.c"),)),
    ("scope", "/scoped.T/Unary", b"x", bearer),
    ("dead", "/dead.T/Unary", b"x", bearer),
    ("unknown", "/unknown.T/Unary", b"x", bearer),
    ("no method", "/t.T/Nothing", b"x", bearer),
    ("too large", "/small.T/Unary", b"x" * 5000, bearer),
]:
    try:
        call("unary_unary", method, request, metadata)
        tell(step=step, code=0)
    except grpc.RpcError as error:
        tell(step=step, **status(error))
more = (("x-text", "some words"), ("x-raw-bin", bytes(range(256))))
_, done = channel.unary_unary("/t.T/Unary", same, same).with_call(b"metadata", metadata=bearer + more, timeout=30)
first = [value for name, value in done.initial_metadata() if name == "x-first"]
raw = [dict(told)["x-raw-bin"] == bytes(range(256)) for told in (done.initial_metadata(), done.trailing_metadata())]
last = dict(done.trailing_metadata())
tell(step="metadata", first=first, raw=raw, text=last["x-text"])
large = bytes(range(256)) * (6 << 12)
tell(step="large", same=call("unary_unary", "/t.T/Unary", large) == b"got " + large)
tell(step="in", total=int(call("stream_unary", "/t.T/Sum", iter([b"x" * 100_000] * 40))))
try:
    call("stream_unary", "/t.T/Early", (b"x" * 1000 for _ in range(1000)))
    tell(step="early", code=0)
except grpc.RpcError as error:
    tell(step="early", **status(error))
try:
    call("unary_unary", "/t.T/Slow", b"", timeout=0.5)
    tell(step="deadline", code=0)
except grpc.RpcError as error:
    tell(step="deadline", **status(error))
given_up = call("unary_stream", "/t.T/Count", b"1")
next(given_up)
given_up.cancel()
tell(step="given up")
many = [channel.unary_unary("/t.T/Unary", same, same).future(b"%d" % n, metadata=bearer, timeout=30) for n in range(200)]
tell(step="many", same=all(future.result() == b"got %d" % n for n, future in enumerate(many)))
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
