"""What one proxied request costs in things that can be counted on a busy machine: instructions and allocations
(callgrind), system calls (strace). Requests come over a few connections, all of them in flight at once."""
import collections
import json
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from . import scenarios, upstream
from .job import Job
from .load import ask
from .paths import TOKENS
from .procs import Running, free_port

CONNECTIONS = 8
# What Rust's allocations go through, by what is left of it after inlining; C code of libraries has its own.
ALLOCATORS = (
    re.compile(r"^__rustc::__rust_(alloc|alloc_zeroed|realloc)$"),
    re.compile(r"^mi_(malloc|zalloc|realloc)_aligned$"),
)


class Client:
    """A few connections that ask all at once and wait for all answers."""

    def __init__(self, job, fields="", connections=CONNECTIONS):
        self.job, self.fields, self.at = job, fields, 0
        s = job.scenario
        self.tokens = (job.tokens / s.tokens).read_text().split() if s.alg else [None]
        self.sockets = [socket.create_connection(("127.0.0.1", job.port), 30) for _ in range(connections)]

    def ask(self, count):
        done = 0
        while done < count:
            for sock in self.sockets:
                token = self.tokens[self.at % len(self.tokens)]
                self.at += 1
                auth = f"Authorization: Bearer {token}\r\n" if token else ""
                sock.sendall((f"GET {self.job.scenario.path} HTTP/1.1\r\nHost: 127.0.0.1:{self.job.port}\r\n"
                              f"User-Agent: bench/1\r\nAccept: */*\r\n{self.fields}{auth}\r\n").encode())
            for sock in self.sockets:
                data = b""
                while True:
                    data += sock.recv(1 << 20)
                    head, sep, body = data.partition(b"\r\n\r\n")
                    if sep and len(body) >= int(re.search(rb"content-length: (\d+)", head.lower())[1]):
                        break
                if not head.startswith(b"HTTP/1.1 200"):
                    raise RuntimeError(f"not 200: {head[:200]!r}")
                done += 1
        return done


class Bench:
    """One upstream, and gateways on it one after the other."""

    def __enter__(self):
        self.root = Path(tempfile.mkdtemp(prefix="portcullis-bench-"))
        self.up, self.up_port = upstream.start(self.root / "upstream")
        self.serial = 0
        return self

    def __exit__(self, *_):
        self.up.stop()
        shutil.rmtree(self.root, ignore_errors=True)

    def job(self, scenario, workers=2):
        self.serial += 1
        directory = self.root / str(self.serial)
        directory.mkdir()
        return Job(scenario, directory, TOKENS, free_port(), self.up_port, workers, free_port())

    def start(self, target, job, before=(), limit=120):
        """-> the running gateway, once it answers as it must."""
        command = [*before, *(str(c) for c in target.command(job))]
        running = Running(target.name, command, job.directory / "out.log")
        s, began, last = job.scenario, time.monotonic(), ""
        good = json.loads((job.tokens / f"{s.alg}.cases.json").read_text())["good"] if s.alg else None
        while time.monotonic() - began < limit and running.alive():
            try:
                last = ask(job.port, s.path, good, s.tls)[0]
                if last == 200:
                    return running
            except OSError as e:
                last = e
            time.sleep(0.05)
        running.stop()
        raise SystemExit(f"{target.name} did not start ({last}): {running.tail()}")


def warm_up(client, scenario):
    """Connections are made, buffers have their size, and where tokens repeat they are known."""
    if scenario.mix != "fresh":
        client.tokens = client.tokens[:1000]
    client.ask(200 if scenario.mix == "fresh" else max(200, 2 * len(client.tokens)))


def instructions(bench, target, name, requests=2000, fields="", prepared=None):
    """-> {"instructions": a request, "allocations": a request}"""
    scenario = scenarios.BY_NAME[name]
    job = prepared or bench.job(scenario)
    out = job.directory / "callgrind.out"
    running = bench.start(target, job, ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}"])
    control = lambda *what: subprocess.run(["callgrind_control", *what, str(running.pid)], check=True,
                                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        client = Client(job, fields)
        warm_up(client, scenario)
        control("-z")
        done = client.ask(requests)
        control("-d")
    finally:
        running.stop()
    profile = Profile(sorted(job.directory.glob("callgrind.out.*"))[0])
    return {"instructions": profile.total / done, "allocations": profile.allocations() / done,
            "profile": profile, "requests": done}


class Profile:
    """Self costs and calls of one callgrind dump."""

    def __init__(self, path):
        self.names, self.own, self.calls = {}, collections.Counter(), collections.Counter()
        function = callee = None
        inclusive = False
        for line in open(path):
            if line.startswith("fn="):
                function = self._name(line[3:])
            elif line.startswith(("cfn=", "cfni=")):
                callee = self._name(line.split("=", 1)[1])
            elif line.startswith("calls="):
                self.calls[callee] += int(line[6:].split()[0])
                inclusive = True  # the cost on the next line is that of the call
            elif line[0].isdigit() or line[0] in "+-*":
                if not inclusive:
                    cost = line.split()
                    self.own[function] += int(cost[1]) if len(cost) > 1 else 0
                inclusive = False
        self.total = sum(self.own.values())

    def _name(self, text):
        number, name = re.match(r"\((\d+)\)(?: (.*))?", text.rstrip("\n")).groups()
        if name:
            self.names[number] = name
        return number

    def allocations(self):
        for pattern in ALLOCATORS:
            found = sum(n for f, n in self.calls.items() if pattern.match(self.names.get(f, "")))
            if found:
                return found
        return 0

    def top(self, requests, count=40):
        for function, cost in self.own.most_common(count):
            yield cost / requests, self.calls[function] / requests, self.names.get(function, function)


def syscalls(bench, target, name, requests=4000, connections=32):
    """-> {system call: a request}"""
    scenario = scenarios.BY_NAME[name]
    job = bench.job(scenario)
    running = bench.start(target, job)
    out = job.directory / "strace.out"
    try:
        client = Client(job, connections=connections)
        warm_up(client, scenario)
        pids = [arg for pid in running.pids() for arg in ("-p", str(pid))]
        strace = subprocess.Popen(["strace", "-f", "-c", "-o", out, *pids], stderr=subprocess.PIPE, text=True)
        strace.stderr.readline()  # it says so when it has attached
        time.sleep(0.5)
        done = client.ask(requests)
        strace.send_signal(signal.SIGINT)
        strace.communicate(timeout=30)
    finally:
        running.stop()
    found = {}
    for line in out.read_text().splitlines():
        fields = line.split()
        if len(fields) >= 5 and fields[3].isdigit() and fields[-1] not in ("total", "restart_syscall"):
            found[fields[-1]] = int(fields[3]) / done
    return found
