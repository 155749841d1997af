"""Reads requests with h11, one a line in hexadecimal, and tells each as JSON."""

import json
import sys

import h11

for line in sys.stdin:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(bytes.fromhex(line.strip()))
    told = {"body": ""}
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                told["line"] = f"{event.method.decode()} {event.target.decode()} HTTP/{event.http_version.decode()}"
                told["fields"] = [[name.decode(), value.hex()] for name, value in event.headers]
            elif isinstance(event, h11.Data):
                told["body"] += bytes(event.data).hex()
            elif isinstance(event, h11.EndOfMessage):
                told["rest"] = bytes(connection.trailing_data[0]).hex()
                if list(event.headers):
                    told["trailers"] = len(list(event.headers))
                break
            else:
                told["rest"] = f"no end: {event!r}"
                break
    except h11.ProtocolError as error:
        told["rest"] = f"refused: {error}"
    print(json.dumps(told), flush=True)
