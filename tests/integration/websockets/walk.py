"""Walks through what WebSockets can do, at URL: each way of ending is said by the other side, too."""

import hashlib
import sys

from websockets.exceptions import ConnectionClosed, ConnectionClosedError
from websockets.sync.client import connect

(url,) = sys.argv[1:]
dial = lambda mode, **options: connect(f"{url}/{mode}", max_size=None, **options)

for compression in ["deflate", None]:
    with dial("pieces", compression=compression) as connection:
        extensions = connection.response.headers.get("Sec-WebSocket-Extensions", "")
        assert ("permessage-deflate" in extensions) == (compression == "deflate"), extensions
        for sent in [["one ", "two ", "three"], [b"\0", b"", b"\xff" * 70_000], ["é" * 30_000, "x"]]:
            connection.send(iter(sent))
            got = list(connection.recv_streaming())
            # The frames came back as they were cut; an empty last one ends the message.
            assert [piece for piece in got if piece] == [piece for piece in sent if piece], (compression, len(got))
        connection.close(3001, "enough")
    with dial("sum", compression=compression) as connection:
        for message in [bytes(range(256)) * 40_000, "x" * 5_000_000]:
            connection.send(message)
            data = message.encode() if isinstance(message, str) else message
            assert connection.recv() == hashlib.sha256(data).hexdigest()
    with dial("give", compression=compression) as connection:
        connection.send("30")
        assert sum(len(message) for message in connection) == 30_000_000
        assert (connection.close_code, connection.close_reason) == (1000, "that was all")
print("messages", flush=True)

with dial("ping") as connection:
    assert connection.recv() == "there"
    assert connection.ping(b"and you").wait(20)
print("pings", flush=True)

for code in [1000, 1001, 1003, 1011, 3000, 4999]:
    with dial(f"close{code}") as connection:
        connection.send("now")
        try:
            connection.recv()
        except ConnectionClosed as closed:
            assert (closed.rcvd.code, closed.rcvd.reason) == (code, "said so"), closed
print("codes", flush=True)

for code in [1000, 1001, 1008, 3001, 4000]:
    with dial("other") as connection:
        connection.close(code, f"with {code}")
print("codes of ours", flush=True)

with dial("reset") as connection:
    connection.send("now")
    try:
        connection.recv()
        raise SystemExit("it went on")
    except ConnectionClosedError as closed:
        assert closed.rcvd is None, closed
print("reset", flush=True)
