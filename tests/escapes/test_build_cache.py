"""CVE-2024-24557: a build cache that compares too little of a configuration gives one user another's layers."""

import io
import tarfile


def test_there_is_no_build_cache_to_poison(clean):
    """The daemon has no builder, and so no cache: a build is refused, reads nothing and leaves nothing."""
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        text = b"FROM busybox\nHEALTHCHECK CMD true\nRUN true\n"
        entry = tarfile.TarInfo("Dockerfile")
        entry.size = len(text)
        tar.addfile(entry, io.BytesIO(text))
    before = clean.api.get("/images/json", all=1)
    status, body = clean.api.call("POST", "/build", context.getvalue(), headers={"Content-Type": "application/x-tar"}, t="poisoned:latest")
    assert status == 501 and "message" in body, (status, body)
    assert clean.api.get("/images/json", all=1) == before
    assert clean.api.get("/containers/json", all=1) == []
    assert clean.api.get("/system/df").get("BuildCache") in (None, [])


def test_a_committed_image_is_never_taken_for_another(clean):
    """What a cache would go by: images with the same layers and different configurations stay apart."""
    clean.wherry("create", "--name", "one", "busybox", "true")
    plain = clean.wherry("commit", "one", "apart:plain").stdout.strip()
    other = clean.wherry("commit", "--change", "HEALTHCHECK CMD true", "one", "apart:other").stdout.strip()
    assert plain != other
    assert clean.api.get("/images/apart:plain/json")["Config"].get("Healthcheck") is None
    assert clean.api.get("/images/apart:other/json")["Config"]["Healthcheck"]["Test"] == ["CMD-SHELL", "true"]
