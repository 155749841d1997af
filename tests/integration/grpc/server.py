"""A gRPC service of plain bytes: `t.T/Unary`, `t.T/Count` (a stream that ends when it is told to), `t.T/Echo` (both ways)."""

import sys
import threading
from concurrent import futures

import grpc

done = threading.Event()


def unary(request, context):
    seen = dict(context.invocation_metadata())
    context.set_trailing_metadata((("x-subject", seen.get("x-auth-subject", "-")), ("x-proto", seen.get("x-forwarded-proto", "-"))))
    if request == b"fail":
        context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")
    return b"got " + request


def count(request, context):
    for number in range(int(request)):
        yield str(number).encode()
    # The stream stays open until its client or the gateway ends it.
    context.add_callback(done.set)
    done.wait(60)


def echo(requests, context):
    for request in requests:
        yield b"re " + request


same = lambda data: data
handlers = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary, same, same),
    "Count": grpc.unary_stream_rpc_method_handler(count, same, same),
    "Echo": grpc.stream_stream_rpc_method_handler(echo, same, same),
}
server = grpc.server(futures.ThreadPoolExecutor(8))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", handlers),))
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
sys.stdin.read()
