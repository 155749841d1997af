"""The --target hook: how portcullis itself is plugged in."""
import shlex
import subprocess
import time

from .peers import Peer


# ---------------------------------------------------------------------------------------------
# ADAPT HERE when the gateway's configuration schema changes. These two functions are the only place
# in the kit that knows it: the whole gateway.toml of one job, and how the revocation list gets in.
def portcullis_config(job, access_log="off", extra="") -> str:
    s, out = job.scenario, []
    out += ["[server]", f"workers = {job.workers}", f'access_log = "{access_log}"']
    if s.tls:
        out += ["listen = []", "", "[server.tls]", f'listen = ["{job.listen}"]',
                f'certificates = [{{ cert = "{job.tokens}/tls.crt", key = "{job.tokens}/tls.key" }}]']
    else:
        out += [f'listen = ["{job.listen}"]']
    out += ["", "[admin]", f'listen = "127.0.0.1:{job.admin_port}"', f'token_file = "{job.directory}/admin.token"']
    out += ["", "[state]", f'dir = "{job.directory}/state"']
    out += ["", "[store]", f'url = "sqlite:{job.directory}/state/portcullis.db"']
    out += ["", "[auth]", "enabled = false"]
    if s.alg:
        key = "secret_file" if s.alg == "hs256" else "public_key_file"
        out += ["", "[[issuers]]", 'name = "bench"', f'issuer = "{job.issuer}"', f'audience = ["{job.audience}"]',
                f'algorithms = ["{job.alg}"]', f'{key} = "{job.key_file}"', 'max_token_ttl = "400d"']
    out += ["", "[[upstreams]]", 'name = "legacy"', f'targets = ["http://{job.upstream}"]']
    out += ["", "[[routes]]", 'name = "all"', 'path = "/"', 'upstream = "legacy"',
            f'auth = "{"access" if s.alg else "public"}"']
    return "\n".join(out) + "\n" + extra


def more_routes(count) -> str:
    """Routes beside the one that is used."""
    return "".join(f'\n[[routes]]\nname = "r{n}"\npath = "/grow/{n % 100}/{n}"\nupstream = "legacy"\nauth = "access"\n'
                   for n in range(count))


def more_issuers(job, count) -> str:
    """Issuers beside the one whose tokens come."""
    return "".join(f'\n[[issuers]]\nname = "i{n}"\nissuer = "https://{n}.issuer.bench"\naudience = ["{job.audience}"]\n'
                   f'algorithms = ["{job.alg}"]\nsecret_file = "{job.key_file}"\n' for n in range(count))


def portcullis_prepare(job, command, config):
    """Secrets readable by the owner alone; the revocation list loaded into the state directory (not timed)."""
    for secret in ("hs256.key", "tls.key"):
        if (job.tokens / secret).exists():
            (job.tokens / secret).chmod(0o600)
    if job.revoked_file and job.revoked_file.stat().st_size:
        portcullis_import(job, command, config, (line.strip() for line in open(job.revoked_file)))


def portcullis_import(job, command, config, jtis):
    expires = int(time.time()) + 86400
    lines = job.directory / "revoked.ndjson"
    with open(lines, "w") as out:
        for jti in jtis:
            out.write(f'{{"kind":"token","issuer":"bench","value":"{jti}","expires_at":{expires}}}\n')
    subprocess.run([command[0], "import", "--config", str(config), str(lines)], check=True, timeout=3000,
                   stdout=subprocess.DEVNULL)
    lines.unlink()
# ---------------------------------------------------------------------------------------------


class Target(Peer):
    """A command line given by --target [NAME=]COMMAND with {config}, {listen}, {port}, {upstream},
    {workers}, {tokens} and {dir} filled in."""

    def __init__(self, text, access_log="off", extra=None, revoked=0):
        """`extra(job)` is added to the configuration; so many further tokens are revoked before the start."""
        name, sep, command = text.partition("=")
        if not sep or not name.replace("-", "").replace("_", "").isalnum():
            name, command = "portcullis", text
        self.name, self.template = name, command
        self.access_log, self.extra, self.revoked = access_log, extra, revoked

    def missing(self):
        return None

    def version(self):
        return f"command: {self.template}"

    def command(self, job):
        text = portcullis_config(job, self.access_log, self.extra(job) if self.extra else "")
        config = job.write("gateway.toml", text)
        values = {"config": config, "listen": job.listen, "port": job.port, "upstream": job.upstream,
                  "workers": job.workers, "tokens": job.tokens, "dir": job.directory}
        command = [part.format(**values) for part in shlex.split(self.template)]
        portcullis_prepare(job, command, config)
        if self.revoked:
            portcullis_import(job, command, config, (f"grown-{n}" for n in range(self.revoked)))
        return command
