"""Talks to an echo at URL with a bearer TOKEN, says what came back, then how the connection ended."""

import sys

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

url, token = sys.argv[1:]
headers = {"Authorization": f"Bearer {token}"}
with connect(url, additional_headers=headers, subprotocols=["other", "chat"], max_size=None) as connection:
    for message in ["hello", "é" * 100_000, bytes(range(256)) * 4096, ""]:
        connection.send(message)
        assert connection.recv() == message
    connection.ping().wait()
    extensions = connection.response.headers.get("Sec-WebSocket-Extensions", "")
    print("echoed", connection.subprotocol, extensions.split(";")[0], flush=True)
    try:
        connection.recv()
    except ConnectionClosed as closed:
        received = closed.rcvd
        print("closed", received.code if received else None, received.reason if received else "", flush=True)
