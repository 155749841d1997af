"""What a request costs as a configuration and a blocklist grow."""
from . import counts, load, scenarios
from .counts import Bench
from .target import Target, more_issuers, more_routes

ROUTES = (1, 10, 100, 1_000, 10_000)
ISSUERS = (1, 10, 100)
FIELDS = (10, 30, 50, 70, 90)
BLOCKLIST = (0, 1_000_000, 10_000_000)


def instructions(command, part):
    """Yields (size, instructions a request): what can be counted does not depend on how busy the machine is."""
    with Bench() as bench:
        for size in {"routes": ROUTES, "issuers": ISSUERS, "headers": FIELDS}[part]:
            target, fields = Target(command), ""
            if part == "routes":
                target = Target(command, extra=lambda job, n=size: more_routes(n - 1))
            elif part == "issuers":
                target = Target(command, extra=lambda job, n=size: more_issuers(job, n - 1))
            else:
                # Host, User-Agent, Accept and Authorization are there anyway.
                fields = "".join(f"X-Field-{n}: value of field {n}\r\n" for n in range(size - 4))
            yield size, counts.instructions(bench, target, "hs256-many", fields=fields)["instructions"]


def blocklist(command, rounds, seconds, sizes=BLOCKLIST, connections=32):
    """Yields (entries, processor us a request, MiB, seconds to the first answer): a large table is met by cache misses,
    which nobody counts in instructions. Each size is loaded once and measured in rounds."""
    import statistics
    import time
    scenario = scenarios.BY_NAME["hs256-many"]
    with Bench() as bench:
        script = bench.root / "load.lua"
        script.write_text(load.WRK_SCRIPT)
        for size in sizes:
            job, target = bench.job(scenario), Target(command, revoked=size)
            began = time.monotonic()
            running = bench.start(target, job, limit=600)
            started, tokens, measured = time.monotonic() - began, job.tokens / scenario.tokens, []
            try:
                load.wrk(script, job.url, scenario.path, tokens, 2, connections, 1, False)
                for _ in range(rounds):
                    before = running.used()
                    got = load.wrk(script, job.url, scenario.path, tokens, seconds, connections, 1, False)
                    measured.append((running.used().exact - before.exact) * 1e6 / got.requests)
                yield size, statistics.median(measured), running.memory_mib(), started
            finally:
                running.stop()
