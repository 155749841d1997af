"""Asks DIRECT and GATEWAY (over HTTP/1.1, and over HTTP/2 by prior knowledge) the same things of httpbin, and holds the
answers against each other: status, fields, body. Whatever may differ is named here, and only that.

Prints each difference; ends with how many requests were compared and how many differed.
"""

import json
import re
import sys

import httpx

direct_url, gateway_url = sys.argv[1:]

# --- What the gateway changes in a request, as httpbin shows it: name -> what it must look like.
SAID_BY_GATEWAY = {
    "Via": r"(1\.1|2) portcullis",
    "Forwarded": r"for=.*;proto=http(;.*)?|for=.*",
    "X-Forwarded-For": r"127\.0\.0\.1",
    "X-Forwarded-Proto": r"http",
    "X-Forwarded-Host": r"bin\.test",
    "X-Request-Id": r"[0-9a-f-]{36}",
    "Traceparent": r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]",
}
# httpbin shows these with ?show_env=1 alone.
SHOWN_WHEN_ASKED = {"Via", "X-Forwarded-For", "X-Forwarded-Proto", "X-Request-Id"}
# Of one connection, and never passed on (RFC 9110 section 7.6.1).
HOP_BY_HOP = {"Connection", "Keep-Alive", "Te", "Upgrade", "Proxy-Connection", "Transfer-Encoding"}

# --- What it changes in an answer.
# Behind what was there before.
ADDED = {"via": r"1\.[01] portcullis", "x-request-id": r"[0-9a-f-]{36}"}
ANSWER_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding"}
# Says when it was, not what.
TIMES = {"date"}


def requests():
    """(method, target, fields, content) of each request."""
    plain = [
        "/get", "/get?a=1&a=2&b=", "/get?q=%C3%A9%20%2F%3F&plus=a+b", "/get?%5B%5D=1&;=2&x", "/headers", "/headers?show_env=1", "/anything?show_env=1", "/ip",
        "/user-agent", "/anything", "/anything/a%20b/c%C3%A4;v=1,2", "/anything/~user/$&'()*+,;=:@", "/anything/a%3Fb%23c",
        "/html", "/xml", "/json", "/robots.txt", "/deny", "/encoding/utf8", "/base64/cG9ydGN1bGxpcw==", "/forms/post",
        "/gzip", "/deflate", "/brotli", "/stream/5", "/links/3/0", "/links/3/1",
        "/bytes/4096?seed=7", "/bytes/0?seed=7", "/stream-bytes/50000?seed=7&chunk_size=1000", "/range/2000",
        "/drip?duration=0.2&numbytes=20&delay=0&code=200", "/delay/0.2",
        "/image/png", "/image/jpeg", "/image/webp", "/image/svg",
        "/cookies", "/cookies/set?a=1&b=2", "/cookies/set/a/1", "/cookies/delete?a",
        "/redirect/1", "/redirect/2", "/relative-redirect/2", "/absolute-redirect/1",
        "/redirect-to?url=http%3A%2F%2Felsewhere.test%2F&status_code=307",
        "/cache", "/cache/60", "/etag/abc", "/response-headers?X-One=1&X-Two=a%2Cb&X-One=2&Server=mine",
        "/basic-auth/user/pass", "/hidden-basic-auth/user/pass", "/bearer",
    ]
    for target in plain:
        yield "GET", target, [], None
    for status in [200, 201, 202, 203, 204, 205, 226, 300, 301, 302, 303, 304, 305, 307, 308, 400, 401, 402, 403, 404, 405,
                   406, 409, 410, 412, 413, 418, 422, 425, 428, 429, 451, 500, 501, 502, 503, 504, 599]:
        yield "GET", f"/status/{status}", [], None
        if status in (200, 204, 301, 404, 500):
            yield "HEAD", f"/status/{status}", [], None
            yield "POST", f"/status/{status}", [], b"x"
    for target in ["/get", "/html", "/image/png", "/gzip", "/bytes/1000?seed=1", "/stream/2", "/etag/abc"]:
        yield "HEAD", target, [], None
    for target in ["/get", "/anything", "/post"]:
        yield "OPTIONS", target, [("Origin", "https://page.test"), ("Access-Control-Request-Method", "PUT")], None
    yield "GET", "/post", [], None  # 405 with Allow
    yield "GET", "/etag/abc", [("If-None-Match", '"abc"')], None
    yield "GET", "/etag/abc", [("If-Match", '"other"')], None
    yield "GET", "/cache", [("If-Modified-Since", "Thu, 26 Nov 2026 00:00:00 GMT")], None
    for spans in ["bytes=0-99", "bytes=1990-", "bytes=-10", "bytes=5000-6000"]:
        yield "GET", "/range/2000", [("Range", spans)], None
    yield "GET", "/basic-auth/user/pass", [("Authorization", "Basic dXNlcjpwYXNz")], None
    yield "GET", "/bearer", [("Authorization", "Bearer not-ours")], None
    yield "GET", "/cookies", [("Cookie", "a=1; b=\"two\"; c=")], None
    yield "GET", "/headers", [("X-Many", "1"), ("X-Many", "2"), ("Accept-Language", "de, en;q=0.5")], None
    yield "GET", "/headers", [("X-Long", "v" * 6000)], None
    yield "GET", "/headers", [("X-Empty", ""), ("X-Latin", b"caf\xe9")], None
    yield "GET", "/headers", [("Accept-Encoding", "gzip, br")], None
    for method in ["POST", "PUT", "PATCH", "DELETE"]:
        path = "/" + method.lower()
        yield method, path, [("Content-Type", "application/json")], b'{"a": [1, "\xc3\xa9"]}'
        yield method, path, [("Content-Type", "application/x-www-form-urlencoded")], b"a=1&b=%20x&a=2"
        yield method, path, [("Content-Type", "application/octet-stream")], bytes(range(256)) * 64
        yield method, path, [], b""
    parts = b'--B\r\nContent-Disposition: form-data; name="f"; filename="x.txt"\r\n\r\nfile\r\n--B--\r\n'
    yield "POST", "/post", [("Content-Type", "multipart/form-data; boundary=B")], parts
    yield "POST", "/post", [("Content-Type", "text/plain")], iter([b"in ", b"three ", b"chunks"])
    yield "PUT", "/anything/big", [("Content-Type", "text/plain")], b"z" * 700_000
    yield "PROPFIND", "/anything", [], None


def ask(client, base, method, target, headers, content):
    if content is not None and not isinstance(content, bytes):
        content = iter(list(content))
    request = client.build_request(method, base + target, headers=[("Host", "bin.test"), *headers], content=content)
    request.headers.pop("Accept-Encoding") if not any(n == "Accept-Encoding" for n, _ in headers) else None
    response = client.send(request, stream=True)
    raw = b"".join(response.iter_raw())
    return response, raw


def decoded(response, raw):
    coding = response.headers.get("content-encoding")
    if coding and raw:
        return httpx.Response(200, headers={"content-encoding": coding}, content=raw).content
    return raw


def shown(body, through, all_of_them):
    """The body with what it shows of the request's fields reduced to what must be the same."""
    try:
        told = json.loads(body)
    except ValueError:
        lines = body.split(b"\n")
        if len(lines) > 1 and lines[0].startswith(b"{"):  # /stream
            return b"\n".join(shown(line, through, all_of_them) if line else b"" for line in lines)
        return body
    fields = told.get("headers") if isinstance(told, dict) else None
    if isinstance(fields, dict):
        if through:
            for name, form in SAID_BY_GATEWAY.items():
                value = fields.pop(name, None)
                if value is None and name in SHOWN_WHEN_ASKED and not all_of_them:
                    continue
                assert value is not None and re.fullmatch(form, value), f"the upstream was told {name}: {value}"
        for name in HOP_BY_HOP & set(fields):
            fields.pop(name)
    return json.dumps(told, sort_keys=True).encode()


def compare(plain, plain_raw, other, other_raw):
    if other.status_code != plain.status_code:
        yield f"status {plain.status_code} became {other.status_code}"
    all_of_them = "show_env" in str(plain.request.url)
    bodies = [shown(decoded(plain, plain_raw), False, all_of_them), shown(decoded(other, other_raw), True, all_of_them)]
    if bodies[0] != bodies[1]:
        yield f"body {bodies[0][:300]!r} became {bodies[1][:300]!r}"
    echoes = decoded(plain, plain_raw) != decoded(other, other_raw)
    before, after = fields(plain), fields(other)
    for name, form in ADDED.items():
        *values, ours = after.pop(name, [""])
        if values != before.pop(name, []) or not re.fullmatch(form, ours):
            yield f"{name}: {values} {ours}"
    for name in ANSWER_HOP_BY_HOP:
        before.pop(name, None)
        value = after.pop(name, None)
        if value and other.http_version == "HTTP/2":
            yield f"{name} over HTTP/2: {value}"
    for name in TIMES:
        if (name in before) != (name in after):
            yield f"{name} came or went"
        before.pop(name, None), after.pop(name, None)
    if echoes and "content-length" in before:
        # It shows fields that the gateway has added, so it is longer.
        if other.request.method != "HEAD" and after.get("content-length") != [str(len(other_raw))]:
            yield f"content-length {after.get('content-length')} of {len(other_raw)} bytes"
        before.pop("content-length"), after.pop("content-length", None)
    if other.request.method == "HEAD" and "content-length" in before and before != after:
        # The same, of a body that is not sent.
        grown = int(after["content-length"][0]) > int(before["content-length"][0])
        if grown and plain.request.url.path in ("/get", "/gzip", "/etag/abc"):
            before.pop("content-length"), after.pop("content-length")
    if "etag" not in plain.request.url.path and plain.request.url.path == "/cache":
        # A new one for each answer.
        for name in ("etag", "last-modified"):
            before.pop(name, None), after.pop(name, None)
    if before != after:
        yield f"fields {before} became {after}"


def fields(response):
    found = {}
    for name, value in response.headers.raw:
        found.setdefault(name.decode().lower(), []).append(value.decode("latin-1"))
    return found


options = dict(trust_env=False, follow_redirects=False, timeout=30)
compared, differed = 0, 0
with (
    httpx.Client(**options) as plain_client,
    httpx.Client(**options) as one,
    httpx.Client(http1=False, http2=True, **options) as two,
):
    for method, target, headers, content in requests():
        if content is not None and not isinstance(content, bytes):
            content = list(content)
        fresh = lambda: iter(content) if isinstance(content, list) else content
        plain, plain_raw = ask(plain_client, direct_url, method, target, headers, fresh())
        for client, version in ((one, "HTTP/1.1"), (two, "HTTP/2")):
            other, other_raw = ask(client, gateway_url, method, target, headers, fresh())
            compared += 1
            differences = list(compare(plain, plain_raw, other, other_raw))
            if other.http_version != version:
                differences.append(f"it was spoken {other.http_version}")
            if differences:
                differed += 1
                for difference in differences:
                    print(f"{version} {method} {target}: {difference}")
            for each in (plain_client, one, two):
                each.cookies.clear()
print(f"compared {compared} differed {differed}")
