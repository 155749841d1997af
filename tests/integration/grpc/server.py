"""A gRPC service of plain bytes: `t.T/Unary`, `t.T/Count` (a stream that ends when it is told to), `t.T/Sum` (a stream in),
`t.T/Echo` (both ways), `t.T/Early` (answers before it has read anything), `t.T/Slow` (never by itself). Says how calls of
`Count` and `Slow` ended.
"""

import sys
import threading
from concurrent import futures

import grpc

LARGE = 16 << 20


def unary(request, context):
    seen = dict(context.invocation_metadata())
    if request == b"metadata":
        context.send_initial_metadata((("x-first", "1"), ("x-first", "2"), ("x-raw-bin", bytes(range(256)))))
        context.set_trailing_metadata((("x-raw-bin", seen["x-raw-bin"]), ("x-text", seen["x-text"])))
        return b""
    context.set_trailing_metadata((("x-subject", seen.get("x-auth-subject", "-")), ("x-proto", seen.get("x-forwarded-proto", "-"))))
    if request == b"fail":
        context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")
    return b"got " + request


def count(request, context):
    for number in range(int(request)):
        yield str(number).encode()
    # The stream stays open until its client or the gateway ends it.
    wait_for_end(context, "Count")


def slow(request, context):
    wait_for_end(context, f"Slow {context.time_remaining() is not None}")
    return b""


def wait_for_end(context, name):
    done = threading.Event()
    context.add_callback(done.set)
    print("ended" if done.wait(60) else "never ended", name, flush=True)


def total(requests, context):
    return str(sum(len(request) for request in requests)).encode()


def echo(requests, context):
    for request in requests:
        yield b"re " + request


def early(requests, context):
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no need to go on")


same = lambda data: data
handlers = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary, same, same),
    "Count": grpc.unary_stream_rpc_method_handler(count, same, same),
    "Slow": grpc.unary_unary_rpc_method_handler(slow, same, same),
    "Sum": grpc.stream_unary_rpc_method_handler(total, same, same),
    "Early": grpc.stream_unary_rpc_method_handler(early, same, same),
    "Echo": grpc.stream_stream_rpc_method_handler(echo, same, same),
}
server = grpc.server(futures.ThreadPoolExecutor(32), options=[("grpc.max_receive_message_length", LARGE)])
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", handlers),))
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
sys.stdin.read()
