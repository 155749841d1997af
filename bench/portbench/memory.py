"""What a connection costs in memory: idle after one request, and with a request that waits for its upstream."""
import resource
import socket
import threading
import time

from . import scenarios
from .counts import Bench
from .job import Job
from .load import ask
from .paths import TOKENS
from .procs import free_port


def _request(job, token):
    return (f"GET /1k HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bench/1\r\nAccept: */*\r\n"
            f"Authorization: Bearer {token}\r\n\r\n").encode()


def _read(sock):
    data = b""
    while b"\r\n\r\n" not in data or len(data.partition(b"\r\n\r\n")[2]) < 1024:
        part = sock.recv(65536)
        if not part:
            raise RuntimeError("the connection ended")
        data += part


class Silent:
    """An upstream that takes every request and answers none but the probe's."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.port, self.held = self.listener.getsockname()[1], []
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        while True:
            try:
                self.held.append(self.listener.accept()[0])
            except OSError:
                return


def measure(target, connections=2000):
    """-> {"idle": KiB a connection, "active": KiB a connection, "empty": MiB}"""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    scenario, found = scenarios.BY_NAME["hs256-same"], {}
    with Bench() as bench:
        job = bench.job(scenario)
        running = bench.start(target, job)
        token = (job.tokens / scenario.tokens).read_text().split()[0]
        try:
            for _ in range(50):
                ask(job.port, "/1k", token)
            found["empty"] = before = running.memory_mib()
            held = []
            for _ in range(connections):
                sock = socket.create_connection(("127.0.0.1", job.port), 10)
                sock.sendall(_request(job, token))
                _read(sock)
                held.append(sock)
            time.sleep(1)
            found["idle"] = (running.memory_mib() - before) * 1024 / connections
        finally:
            running.stop()
        # The same upstream address for all: only the one that never answers is in the configuration.
        silent = Silent()
        directory = bench.root / "active"
        directory.mkdir()
        job = Job(scenario, directory, TOKENS, free_port(), silent.port, 2, free_port())
        from .procs import Running
        running = Running(target.name, [str(c) for c in target.command(job)], directory / "out.log")
        try:
            for _ in range(200):
                try:
                    if ask(job.port, "/1k")[0] == 401:
                        break
                except OSError:
                    time.sleep(0.05)
            before, held = running.memory_mib(), []
            for _ in range(connections):
                sock = socket.create_connection(("127.0.0.1", job.port), 10)
                sock.sendall(_request(job, token))
                held.append(sock)
            for _ in range(600):
                if len(silent.held) >= connections:
                    break
                time.sleep(0.05)
            time.sleep(1)
            found["active"] = (running.memory_mib() - before) * 1024 / connections
            found["at the upstream"] = len(silent.held)
        finally:
            running.stop()
            silent.listener.close()
    return found
