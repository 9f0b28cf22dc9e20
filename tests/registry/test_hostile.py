"""Registries that break, lie and loop: a clear error, nothing left behind, and what can be gone on with is gone on with."""

import gzip
import json
import threading
import time

import pytest
from hostile import (MANIFEST, OCI_INDEX, answer, digest_of, drop, drop_after, hang_up, layer_of, make_image, noise, raw, redirect, silence,
                     slowly)
from support.images import busybox_rootfs

MIB = 1 << 20


def pull(daemon, registry, name="a/b:1", **keywords):
    return daemon.wherry("pull", f"{registry.host}/{name}", check=False, **keywords)


def refused(daemon, registry, words: str, name="a/b:1"):
    result = pull(daemon, registry, name)
    assert result.returncode == 1, result.stdout
    assert words in result.stderr, result.stderr
    return result


def taken(daemon, registry, name="a/b:1"):
    result = pull(daemon, registry, name)
    assert result.returncode == 0, result.stderr
    assert daemon.wherry("image", "verify", f"{registry.host}/{name}").returncode == 0
    daemon.wherry("rmi", f"{registry.host}/{name}")
    return result


def big_layer(size=3 * MIB, seed=b"big"):
    return layer_of({"file": noise(size, seed)})


# What passes by itself


def test_broken_downloads_go_on_where_they_stopped(daemon, registry, nothing_left):
    image = registry.add_image("a/b", "1", [big_layer()])
    registry.on("/blobs/" + image.layers[0], drop_after(MIB), times=2)
    taken(daemon, registry)
    asked = [headers.get("Range") for _, _, headers in registry.seen("/blobs/" + image.layers[0])]
    assert asked[0] is None
    assert all(one and one.startswith("bytes=") for one in asked[1:]), asked
    assert len(asked) == 3


def test_broken_downloads_without_ranges_begin_again(daemon, registry, nothing_left):
    image = registry.add_image("a/b", "1", [big_layer()])
    registry.on("/blobs/" + image.layers[0], drop_after(MIB), times=1)
    registry.on("/blobs/" + image.layers[0], lambda handler, held: held.send(handler, 200, held.blobs[image.layers[0]]))
    taken(daemon, registry)


def test_many_breaks_with_progress_do_not_end_a_pull(daemon, registry, nothing_left):
    image = registry.add_image("a/b", "1", [big_layer()])
    registry.on("/blobs/" + image.layers[0], drop_after(400_000))
    taken(daemon, registry)


def test_busy_registries_are_asked_again(daemon, registry, nothing_left):
    image = registry.add_image("a/b", "1", [layer_of({"x": b"y"})])
    registry.on("/manifests/", answer(503), times=1)
    registry.on("/manifests/", answer(429, Retry_After="1"), times=1)
    registry.on("/blobs/" + image.id, answer(500), times=1)
    registry.on("/blobs/" + image.layers[0], drop, times=2)
    begun = time.monotonic()
    taken(daemon, registry)
    assert time.monotonic() - begun >= 1, "Retry-After was not kept"


def test_ranges_side_by_side_where_the_way_is_slow(daemon, registry, nothing_left):
    """One slow connection: the rest comes in pieces of several."""
    image = registry.add_image("a/b", "1", [big_layer(14 * MIB)])
    path = "/blobs/" + image.layers[0]

    def throttled(handler, held):
        data = held.blobs[image.layers[0]]
        if handler.headers.get("Range"):
            return False
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        for at in range(0, len(data), 65536):
            handler.wfile.write(data[at:at + 65536])
            time.sleep(0.02)
        return True

    registry.on(path, throttled)
    taken(daemon, registry)
    ranges = [headers["Range"] for _, _, headers in registry.seen(path) if "Range" in headers]
    assert len(ranges) >= 3, ranges
    # The same from a registry whose ranges are nonsense.
    registry.reset()
    registry.on(path, throttled, times=1)
    registry.on(path, lambda handler, held: held.send(handler, 206, b"x" * 100, Content_Range="bytes 0-99/100") if handler.headers.get("Range") else False)
    refused(daemon, registry, "another range")


# What does not


def test_dropped_for_good(daemon, registry, nothing_left):
    image = registry.add_image("a/b", "1", [layer_of({"x": b"y"}), big_layer()])
    registry.on("/blobs/" + image.layers[1], drop_after(1000))
    refused(daemon, registry, "after ")
    registry.reset()
    registry.on("/manifests/", drop)
    refused(daemon, registry, "the registry")


@pytest.mark.parametrize(("change", "words"), [
    (lambda length: length + 10, "bytes long at the registry"),
    (lambda length: length - 10, "bytes long at the registry"),
    (lambda length: 10**18, "bytes long at the registry"),
])
def test_lies_about_length(daemon, registry, nothing_left, change, words):
    image = registry.add_image("a/b", "1", [big_layer(100_000)])

    def lie(handler, held):
        data = held.blobs[image.layers[0]]
        handler.send_response(200)
        handler.send_header("Content-Length", str(change(len(data))))
        handler.end_headers()
        handler.wfile.write(data + b"0" * 10)
        handler.close_connection = True

    registry.on("/blobs/" + image.layers[0], lie)
    refused(daemon, registry, words)


@pytest.mark.parametrize(("size", "words"), [(10, "bytes long at the registry"), (10**15, "bytes long at the registry"), (-1, "size"), ("x", "size")])
def test_manifests_that_lie_about_length(daemon, registry, nothing_left, size, words):
    def change(manifest, _):
        manifest["layers"][0]["size"] = size

    registry.add_image("a/b", "1", [layer_of({"x": b"y"})], change=change)
    refused(daemon, registry, words)


def test_longer_than_promised_without_a_length(daemon, registry, nothing_left):
    image = registry.add_image("a/b", "1", [layer_of({"x": b"y"})])

    def endless(handler, held):
        handler.send_response(200)
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(held.blobs[image.layers[0]] + b"more")
        handler.close_connection = True

    registry.on("/blobs/" + image.layers[0], endless)
    refused(daemon, registry, "is longer than the")


def test_wrong_bytes(daemon, registry, nothing_left):
    image = registry.add_image("a/b", "1", [big_layer()])
    blob = bytearray(image.blobs[0])
    blob[len(blob) // 2] ^= 1
    registry.on("/blobs/" + image.layers[0], answer(200, bytes(blob)))
    result = refused(daemon, registry, image.layers[0])
    assert "verification failed" in result.stderr or "corrupt" in result.stderr or "checksum" in result.stderr
    # Another layer altogether, of the same length, whole and unpackable.
    registry.reset()
    first = registry.add_image("a/c", "1", [layer_of({"x": b"first"})], packing="none")
    second = make_image([layer_of({"x": b"other"})], packing="none")
    registry.on("/blobs/" + first.layers[0], answer(200, second.blobs[0]))
    refused(daemon, registry, "verification failed", "a/c:1")


def test_wrong_documents(daemon, registry, nothing_left):
    image = registry.add_image("a/b", "1", [layer_of({"x": b"y"})])
    config = image.config.replace(b"amd64", b"AMD64")
    registry.on("/blobs/" + image.id, answer(200, config))
    refused(daemon, registry, "sent other bytes")
    registry.reset()
    registry.on("/manifests/", answer(200, image.manifest + b" ", Content_Type=MANIFEST))
    refused(daemon, registry, "the registry sent", "a/b@" + image.digest)


def test_layers_that_are_not_what_the_configuration_says(daemon, registry, nothing_left):
    def other_layer(_, config):
        config["rootfs"]["diff_ids"][0] = digest_of(b"else")

    def one_more(_, config):
        config["rootfs"]["diff_ids"].append(digest_of(b"else"))

    registry.add_image("a/b", "1", [layer_of({"x": b"y"})], change=other_layer)
    refused(daemon, registry, "layer is not what it should be")
    registry.add_image("a/b", "1", [layer_of({"x": b"y"})], change=one_more)
    refused(daemon, registry, "the manifest has 1 layers and the configuration 2")


@pytest.mark.parametrize(("spoil", "words"), [
    (lambda data: data[:-100], "unexpected end"),
    (lambda data: data[:50] + b"garbage" + data[57:], ""),
    (lambda data: data + b"garbage", "garbage after the end"),
    (lambda data: b"this is no archive at all" * 100, ""),
    (lambda data: b"", ""),
    (lambda data: gzip.compress(b"\x1f\x8b" * 1000), ""),
])
def test_broken_layers_with_right_digests(daemon, registry, nothing_left, spoil, words):
    image = make_image([big_layer(200_000)])
    blob = spoil(image.blobs[0])

    def change(manifest, _):
        manifest["layers"][0].update(digest=digest_of(blob), size=len(blob))

    image = registry.add("a/b", "1", make_image(image.tars, change=change))
    registry.blobs[digest_of(blob)] = blob
    registry.owners["a/b"].add(digest_of(blob))
    refused(daemon, registry, words)


@pytest.mark.parametrize("packing", ["gzip", "zstd"])
def test_zip_bombs(daemon, registry, nothing_left, packing):
    """100 MB of zeros in a few hundred bytes or kilobytes, against a limit of 64 MiB."""
    registry.add_image("a/b", "1", [layer_of({"zeros": bytes(100 * MIB)})], packing=packing)
    refused(daemon, registry, "stream is longer than")


@pytest.mark.parametrize(("behaviour", "words"), [
    (redirect("/v2/a/b/blobs/again"), "redirects in circles"),
    (lambda handler, held: redirect(handler.path)(handler, held), "redirects in circles"),
    (redirect("file:///etc/passwd"), "not http"),
    (redirect("unix:///run/wherry/wherry.sock"), "not http"),
    (redirect("ftp://127.0.0.1/x"), "not http"),
    (redirect(""), "without a location"),
    (redirect("http://user:password@127.0.0.1/"), "without a host"),
    (redirect("http://"), "without a host"),
    (redirect("/" + "x" * 10_000), "not a URL"),
])
def test_redirects(daemon, registry, nothing_left, behaviour, words):
    image = registry.add_image("a/b", "1", [layer_of({"x": b"y"})])
    registry.on("/blobs/again", redirect("/v2/a/b/blobs/once-more"))
    registry.on("/blobs/once-more", redirect("/v2/a/b/blobs/again"))
    registry.on("/blobs/" + image.layers[0], behaviour)
    refused(daemon, registry, words)


def test_redirects_to_another_host_carry_no_credentials(daemon, registry, nothing_left):
    from hostile import ScriptedRegistry

    with ScriptedRegistry(basic_users={"me": "secret"}) as guarded:
        image = guarded.add_image("a/b", "1", [layer_of({"x": b"y"})])
        registry.add("a/b", "1", image)
        guarded.on("/blobs/" + image.layers[0], redirect(f"{registry.url}/v2/a/b/blobs/{image.layers[0]}"))
        daemon.wherry("login", "-u", "me", "-p", "secret", guarded.host)
        taken(daemon, guarded)
        daemon.wherry("logout", guarded.host)
    (request,) = registry.seen(image.layers[0])
    assert "Authorization" not in request[2]


@pytest.mark.parametrize("garbage", [
    b"\x00\x01\x02\x03" * 100, b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 banana\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 300_000, b"",
])
def test_garbage_instead_of_http(daemon, registry, nothing_left, garbage):
    registry.add_image("a/b", "1", [layer_of({"x": b"y"})])
    registry.on("/manifests/", raw(garbage))
    assert "Error response from daemon: " in refused(daemon, registry, "manifest").stderr


@pytest.mark.parametrize(("kind", "body", "words"), [
    (MANIFEST, b"<html>Sign in to the hotel's network</html>", "manifest"),
    ("text/html", b"<html>Sign in to the hotel's network</html>", "text/html"),
    (MANIFEST, b"", "manifest"),
    (MANIFEST, b"[" * 100_000, "manifest"),
    (MANIFEST, b"{}", "manifest"),
    (MANIFEST, b'{"schemaVersion": 1, "fsLayers": []}', "schema"),
    ("application/vnd.docker.distribution.manifest.v1+prettyjws", b'{"schemaVersion": 1, "fsLayers": []}', "not supported"),
    (MANIFEST, json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "layers": [], "manifests": [], "config": {}}).encode(), "it is an index as well"),
    (OCI_INDEX, json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "layers": [], "manifests": []}).encode(), "it is a manifest as well"),
    (OCI_INDEX, make_image([b""]).manifest, "it is a manifest as well"),
    (MANIFEST, json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "layers": [], "config": {"mediaType": "x", "digest": digest_of(b""), "size": 1}}).encode(), "what calls itself"),
    (MANIFEST, json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "layers": [{"mediaType": "x", "digest": "sha256:../../../etc/passwd", "size": 1}],
                           "config": {"mediaType": "x", "digest": digest_of(b""), "size": 1}}).encode(), "sha256"),
    (MANIFEST, json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "layers": [],
                           "config": {"mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": digest_of(b""), "size": 1}}).encode(), "helm"),
    (MANIFEST, b'{"x":"' + b"y" * (9 * MIB) + b'"}', "too large"),
])
def test_garbage_instead_of_manifests(daemon, registry, nothing_left, kind, body, words):
    registry.on("/manifests/", answer(200, body, Content_Type=kind))
    refused(daemon, registry, words)


def test_lists_that_never_end(daemon, registry, nothing_left):
    deep = registry.add_image("a/b", "leaf", [layer_of({"x": b"y"})])
    for depth in range(6):
        name = f"level{depth}"
        document = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [
            {"mediaType": deep.kind, "digest": deep.digest, "size": len(deep.manifest), "platform": {"os": "linux", "architecture": "amd64"}}]}).encode()
        registry.manifests["a/b", name] = registry.manifests["a/b", digest_of(document)] = (OCI_INDEX, document)
        deep = type("Entry", (), {"kind": OCI_INDEX, "digest": digest_of(document), "manifest": document})
    refused(daemon, registry, "nested too deep", "a/b:level5")
    assert pull(daemon, registry, "a/b:level0").returncode == 0
    daemon.wherry("rmi", f"{registry.host}/a/b:level0")


# Who we are


def test_401_for_ever(daemon, registry, nothing_left):
    registry.add_image("a/b", "1", [layer_of({"x": b"y"})])
    registry.on("/v2/a", answer(401, WWW_Authenticate=f'Bearer realm="{registry.url}/token",service="x"'))
    registry.on("/token", answer(200, b'{"token":"useless"}'))
    refused(daemon, registry, "pull access denied")
    assert len(registry.seen("/manifests/")) <= 3
    registry.reset()
    registry.on("/v2/a", answer(401))
    refused(daemon, registry, "pull access denied")
    registry.reset()
    registry.on("/v2/a", answer(401, WWW_Authenticate=f'Bearer realm="{registry.url}/token"'))
    registry.on("/token", answer(401, WWW_Authenticate=f'Bearer realm="{registry.url}/token"'))
    refused(daemon, registry, "pull access denied")
    assert len(registry.seen("/token")) <= 3


@pytest.mark.parametrize(("header", "token"), [
    ('Bearer realm="ftp://x/"', b""), ('Bearer realm="unix:///run/wherry.sock"', b""), ('Bearer realm=""', b""), ("Bearer", b""), ("Nonsense x=y", b""),
    ('Bearer realm="{url}/token"', b"not json"), ('Bearer realm="{url}/token"', b"{}"), ('Bearer realm="{url}/token"', b'{"token": 5}'),
    ('Bearer realm="{url}/token"', b'{"token": "a\\r\\nHost: evil"}'), ('Bearer realm="{url}/token"', b'{"token": "' + b"x" * (2 * MIB) + b'"}'),
])
def test_challenges_that_lead_nowhere(daemon, registry, nothing_left, header, token):
    registry.on("/v2/a", answer(401, WWW_Authenticate=header.replace("{url}", registry.url)))
    registry.on("/token", answer(200, token))
    refused(daemon, registry, "")


def test_too_many_requests(daemon, registry, nothing_left):
    registry.on("/manifests/", answer(429, b'{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}', Retry_After="100000"))
    begun = time.monotonic()
    refused(daemon, registry, "come back in 100000 seconds")
    assert time.monotonic() - begun < 5
    registry.reset()
    registry.on("/manifests/", answer(429, b'{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}'))
    refused(daemon, registry, "toomanyrequests: slow down")


def test_words_of_registries_are_shown_without_control_characters(daemon, registry, nothing_left):
    registry.on("/manifests/", answer(418, json.dumps({"errors": [{"code": "X\x1b[31m", "message": "red\nnext"}]}).encode()))
    result = refused(daemon, registry, "red next")
    assert "\x1b" not in result.stderr


# Time


def test_a_client_that_goes_away_ends_the_pull(daemon, registry, nothing_left):
    """Silence from the registry, and Ctrl-C from the user: the connection to the registry ends at once."""
    import subprocess

    from support.binaries import binary

    image = registry.add_image("a/b", "1", [big_layer()])
    registry.on("/blobs/" + image.layers[0], silence)
    command = [binary("wherry"), "pull", f"{registry.host}/a/b:1"]
    process = subprocess.Popen(command, env=daemon.client_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    registry.wait_for_request(image.layers[0], method="GET")
    process.terminate()
    process.wait(10)
    registry.wait_for_request(image.layers[0], timeout=10, method="GONE")
    deadline = time.monotonic() + 10
    while any(name.startswith("tmp-") for name in __import__("os").listdir(daemon.data_root / "layers")):
        assert time.monotonic() < deadline, "half a layer stays"
        time.sleep(0.05)


def test_two_pulls_of_one_image_share_the_work(daemon, registry, nothing_left):
    image = registry.add_image("a/b", "1", [big_layer(400_000)])
    registry.on("/blobs/" + image.layers[0], slowly(400_000), times=1)
    results = []
    threads = [threading.Thread(target=lambda: results.append(pull(daemon, registry))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.returncode for result in results] == [0, 0, 0], [result.stderr for result in results]
    assert len(registry.seen("/blobs/" + image.layers[0])) == 1
    daemon.wherry("rmi", f"{registry.host}/a/b:1")


def test_when_one_of_two_pulls_is_given_up_the_other_goes_on(daemon, registry, nothing_left):
    image = registry.add_image("a/b", "1", [big_layer(600_000), layer_of({"z": b"z"})])
    registry.on("/blobs/" + image.layers[0], slowly(300_000))
    import subprocess

    from support.binaries import binary

    command = [binary("wherry"), "pull", f"{registry.host}/a/b:1"]
    first = subprocess.Popen(command, env=daemon.client_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    registry.wait_for_bytes(100_000)
    second = subprocess.Popen(command, env=daemon.client_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    registry.wait_for_bytes(200_000)
    first.terminate()
    first.wait(10)
    output, _ = second.communicate(timeout=60)
    assert second.returncode == 0, output
    assert daemon.wherry("image", "verify", f"{registry.host}/a/b:1").returncode == 0
    daemon.wherry("rmi", f"{registry.host}/a/b:1")


# Pushes


@pytest.fixture
def pushed(daemon, registry):
    name = f"{registry.host}/p/q:1"
    daemon.wherry("tag", "busybox", name)
    yield name
    daemon.wherry("rmi", name)


def push(daemon, name):
    return daemon.wherry("push", name, check=False)


def test_pushes_go_on_after_what_passes(daemon, registry, pushed):
    registry.on("/blobs/uploads/", drop, times=1, method="POST")
    registry.on("/blobs/uploads/", answer(503), times=1, method="PUT")
    registry.on("/blobs/uploads/", drop, times=1, method="PUT")
    registry.on("/manifests/", answer(500), times=1, method="PUT")
    result = push(daemon, pushed)
    assert result.returncode == 0, result.stderr
    assert ("p/q", "1") in registry.manifests
    daemon.wherry("pull", pushed)


@pytest.mark.parametrize(("method", "pattern", "behaviour", "words"), [
    ("POST", "/blobs/uploads/", answer(403, b'{"errors":[{"code":"DENIED","message":"not yours"}]}'), "denied: not yours"),
    ("POST", "/blobs/uploads/", answer(202), "without a location"),
    ("POST", "/blobs/uploads/", answer(202, Location="ftp://x/"), "not http"),
    ("POST", "/blobs/uploads/", answer(200), "200"),
    ("PUT", "/blobs/uploads/", answer(400, b'{"errors":[{"code":"DIGEST_INVALID","message":"no"}]}'), "digest invalid"),
    ("PUT", "/blobs/uploads/", answer(201, Docker_Content_Digest=digest_of(b"else")), "the registry says it stored"),
    ("PUT", "/blobs/uploads/", drop, "the registry"),
    ("PUT", "/manifests/", answer(400, b'{"errors":[{"code":"MANIFEST_INVALID","message":"no"}]}'), "manifest invalid"),
    ("HEAD", "/blobs/", answer(500), "500"),
])
def test_pushes_that_fail(daemon, registry, pushed, nothing_left, method, pattern, behaviour, words):
    registry.on(pattern, behaviour, method=method)
    result = push(daemon, pushed)
    assert result.returncode == 1
    assert words in result.stderr + result.stdout, result.stderr
    assert ("p/q", "1") not in registry.manifests


def test_an_answer_before_the_end_of_the_upload(daemon, registry, pushed, nothing_left):
    def impatient(handler, held):
        handler.send_response(413)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        handler.wfile.flush()
        time.sleep(0.2)
        hang_up(handler)

    registry.on("/blobs/uploads/", impatient, method="PUT")
    assert "413" in push(daemon, pushed).stderr


def test_busybox_is_what_it_was(daemon, registry):
    """Pushed, removed, pulled again: the same bytes."""
    name = f"{registry.host}/p/q:1"
    before = daemon.api.get("/images/busybox/json")["RootFS"]
    daemon.wherry("tag", "busybox", name)
    assert push(daemon, name).returncode == 0
    manifest = json.loads(registry.manifests["p/q", "1"][1])
    assert gzip.decompress(registry.blobs[manifest["layers"][0]["digest"]]) == busybox_rootfs()
    daemon.wherry("rmi", name)
    daemon.wherry("pull", name)
    assert daemon.api.get(f"/images/{name}/json")["RootFS"] == before
    daemon.wherry("rmi", name)
