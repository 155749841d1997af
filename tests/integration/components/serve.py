"""httpbin on waitress; says where it listens."""

import sys

from httpbin import app
from waitress import create_server

# What the gateway says of the client is to be seen, not cleaned away.
server = create_server(app, host="127.0.0.1", port=0, threads=8, clear_untrusted_proxy_headers=False)
print(server.effective_port, flush=True)
try:
    server.run()
except KeyboardInterrupt:
    sys.exit(0)
