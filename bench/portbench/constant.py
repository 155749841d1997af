"""Latency at a constant rate, without coordinated omission: refs/rate."""
import json
import subprocess

from . import load, scenarios
from .counts import Bench
from .paths import BIN, KIT


def build():
    BIN.mkdir(parents=True, exist_ok=True)
    binary, source = BIN / "rate", KIT / "refs/rate/rate.c"
    if not binary.exists() or binary.stat().st_mtime < source.stat().st_mtime:
        subprocess.run(["cc", "-O2", "-Wall", "-o", str(binary), str(source)], check=True)
    return binary


def at_rate(job, rate, seconds, connections):
    s = job.scenario
    tokens = str(job.tokens / s.tokens) if s.alg else "-"
    out = subprocess.run([build(), str(job.port), s.path, tokens, str(connections), f"{rate:.0f}", str(seconds), "1"],
                         capture_output=True, text=True, timeout=seconds + 30)
    if out.returncode:
        raise RuntimeError(f"rate: {out.stderr.strip()}")
    return json.loads(out.stdout)


def compare(peers, reference, name, rounds, seconds, connections, share=0.7, workers=2):
    """All peers at the same rate, `share` of what the reference does when it is saturated -> (rate, {peer: [...]})"""
    scenario, results = scenarios.BY_NAME[name], {p.name: [] for p in peers}
    with Bench() as bench:
        script = bench.root / "load.lua"
        script.write_text(load.WRK_SCRIPT)
        by_name = {p.name: p for p in peers}
        job = bench.job(scenario, workers)
        running = bench.start(by_name[reference], job)
        tokens = job.tokens / scenario.tokens if scenario.alg else None
        try:
            load.wrk(script, job.url, scenario.path, tokens, 2, connections, 1, False)
            saturated = load.wrk(script, job.url, scenario.path, tokens, 3, connections, 1, False).rate
        finally:
            running.stop()
        rate = share * saturated
        for _ in range(rounds):
            for peer in peers:
                job = bench.job(scenario, workers)
                running = bench.start(peer, job)
                try:
                    load.wrk(script, job.url, scenario.path, tokens, 1, connections, 1, False)
                    results[peer.name].append(at_rate(job, rate, seconds, connections))
                finally:
                    running.stop()
    return rate, results
