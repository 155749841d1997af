"""A server that does, with each connection, what its path says; prints what it saw of how it ended."""

import hashlib
import socket
import sys
import threading

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import serve


def ended(closed):
    received = closed.rcvd
    print("ended", received.code if received else None, received.reason if received else "", flush=True)


def serve_one(connection):
    mode = connection.request.path.strip("/")
    try:
        if mode == "pieces":  # how the message came, and the same way back
            while True:
                pieces = list(connection.recv_streaming())
                connection.send(iter(pieces))
        elif mode == "sum":
            while True:
                data = connection.recv()
                connection.send(hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest())
        elif mode == "give":
            for _ in range(int(connection.recv())):
                connection.send(bytes(1_000_000))
            connection.close(1000, "that was all")
        elif mode == "ping":
            pong = connection.ping(b"are you there")
            connection.send("there" if pong.wait(20) else "gone")
            connection.recv()
        elif mode.startswith("close"):
            connection.recv()
            connection.close(int(mode[5:]), "said so")
        elif mode == "reset":
            connection.recv()
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            connection.socket.shutdown(socket.SHUT_RDWR)
        else:
            connection.recv()
    except ConnectionClosed as closed:
        ended(closed)


with serve(serve_one, "127.0.0.1", 0, max_size=None) as server:
    host, port = server.socket.getsockname()
    print(f"{host}:{port}", flush=True)
    server.serve_forever()
