"""Sends every message back; says where it listens, and how each connection ended."""

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import serve


def echo(connection):
    try:
        while True:
            connection.send(connection.recv())
    except ConnectionClosed as closed:
        received = closed.rcvd
        code, reason = (received.code, received.reason) if received else (None, "")
        # In one piece: connections end beside one another.
        print(f"closed {code} {reason}\n", end="", flush=True)


with serve(echo, "127.0.0.1", 0, subprotocols=["chat"], max_size=None) as server:
    host, port = server.socket.getsockname()
    print(f"echo listening on {host}:{port}", flush=True)
    server.serve_forever()
