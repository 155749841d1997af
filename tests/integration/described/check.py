"""Judges what `portcullis schema` and `portcullis openapi` print, by validators that others wrote.

Arguments: the schema, the OpenAPI document, the root of the project. Prints one line for each thing that is wrong.
"""

import json
import pathlib
import sys
import tomllib

from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

schema, api, root = (pathlib.Path(argument) for argument in sys.argv[1:])
schema = json.loads(schema.read_text())
Draft202012Validator.check_schema(schema)
validator = Draft202012Validator(schema)


def uncommented(text):
    """The file with its defaults written out: `#key = value` and `#[table]` are in force, `# ` is a comment."""
    lines = []
    for line in text.splitlines():
        lines.append(line[1:] if line.startswith("#") and not line.startswith(("# ", "##")) and len(line) > 1 else line)
    return "\n".join(lines)


def errors(text):
    return [f"{'/'.join(map(str, error.path))}: {error.message}" for error in validator.iter_errors(tomllib.loads(text))]


good = {
    "gateway.toml": (root / "gateway.toml").read_text(),
    "gateway.toml with its defaults": uncommented((root / "gateway.toml").read_text()),
}
good |= {str(path): path.read_text() for path in (root / "examples").glob("**/gateway.toml")}
bad = {}
for path in sorted((root / "tests/config/cases").glob("*.toml")):
    expected = path.with_suffix(".expected").read_text()
    try:
        tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError:
        continue
    if expected == "loads\n":
        good[path.name] = path.read_text()
    elif "unknown key" in expected:
        bad[path.name] = path.read_text()

for name, text in good.items():
    for error in errors(text):
        print(f"{name} is good, and the schema says {error}")
for name, text in bad.items():
    if not errors(text):
        print(f"{name} has a key or a type that is wrong, and the schema takes it")
if len(good) < 4 or len(bad) < 3:
    print(f"only {len(good)} good and {len(bad)} bad files")


def slips(value, path=()):
    """Every way to have one key of a file misspelt."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if path not in (("auth", "claims"),) and (not path or path[-1] not in ("require_claims", "set")):
                yield {**{k: v for k, v in value.items() if k != key}, key + "x": inner}
            for changed in slips(inner, (*path, key)):
                yield {**value, key: changed}
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            for changed in slips(inner, path):
                yield [*value[:number], changed, *value[number + 1:]]


count = 0
for changed in slips(tomllib.loads(uncommented((root / "gateway.toml").read_text()))):
    count += 1
    if validator.is_valid(changed):
        print(f"a misspelt key is taken: {json.dumps(changed)[:300]}")
if count < 100:
    print(f"only {count} keys were misspelt")

for error in OpenAPIV31SpecValidator(json.loads(api.read_text())).iter_errors():
    print(f"openapi: {error.message}")
