"""Calls the service through ADDRESS, at the pace of its input: each line goes into one stream that stays open, `unary` makes
a call beside it on the same channel, `end` ends the stream. Prints one JSON line a step.
"""

import json
import queue
import sys

import grpc

channel = grpc.insecure_channel(sys.argv[1])
same = lambda data: data
words = queue.Queue()
stream = channel.stream_stream("/t.T/Echo", same, same)(iter(words.get, None), timeout=120)


def tell(**what):
    print(json.dumps(what), flush=True)


for line in map(str.strip, sys.stdin):
    if line == "unary":
        tell(step="unary", answer=channel.unary_unary("/t.T/Unary", same, same)(b"hello", timeout=30).decode())
    elif line == "end":
        words.put(None)
        rest = list(stream)
        tell(step="end", code=stream.code().value[0], rest=len(rest))
        break
    else:
        words.put(line.encode())
        tell(step="stream", answer=next(stream).decode())
