"""Images made on the spot: nothing is fetched from anywhere."""

import functools
import io
import os
import subprocess
import tarfile

import pytest


def tar_of(entries: dict[str, bytes | None]) -> bytes:
    """{"path": content}: a tar; a path ending in / is a folder; content "->x" as bytes b"->x" is a symbolic link to x."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for path, content in entries.items():
            info = tarfile.TarInfo(path.rstrip("/"))
            if path.endswith("/"):
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(info)
            elif content is not None and content.startswith(b"->"):
                info.type, info.linkname = tarfile.SYMTYPE, content[2:].decode()
                tar.addfile(info)
            else:
                info.size, info.mode = len(content or b""), 0o644 if path.startswith("etc/") else 0o755
                tar.addfile(info, io.BytesIO(content or b""))
    return raw.getvalue()


@functools.cache
def busybox_rootfs() -> bytes:
    """A root file system of one static busybox with a link for each applet."""
    path = next((p for p in ("/bin/busybox", "/usr/bin/busybox") if os.path.exists(p)), None)
    if path is None:
        pytest.skip("busybox-static is not installed")
    with open(path, "rb") as file:
        binary = file.read()
    applets = subprocess.run([path, "--list"], capture_output=True, text=True, check=True).stdout.split()
    entries: dict[str, bytes | None] = {f"{name}/": None for name in ("bin", "etc", "home", "proc", "root", "sys", "tmp", "usr", "var", "dev", "usr/bin", "sbin")}
    entries["bin/busybox"] = binary
    for applet in applets:
        if applet != "busybox":
            entries[f"bin/{applet}"] = b"->/bin/busybox"
    entries["etc/passwd"] = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\nworker:x:1000:1000::/home:/bin/sh\n"
    entries["etc/group"] = b"root:x:0:\nstaff:x:50:worker\nnobody:x:65534:\nworker:x:1000:\n"
    entries["usr/bin/env"] = b"->/bin/busybox"
    return tar_of(entries)


def import_busybox(api, reference: str = "busybox:latest", changes: tuple[str, ...] = ('CMD ["sh"]', "ENV PATH=/bin:/sbin:/usr/bin")) -> str:
    """POST /images/create?fromSrc=-: the image's id."""
    repository, _, tag = reference.partition(":")
    query = {"fromSrc": "-", "repo": repository, "tag": tag or "latest"}
    path = "/images/create?" + "&".join(f"{k}={quote(v)}" for k, v in query.items())
    path += "".join(f"&changes={quote(change)}" for change in changes)
    api.ok("POST", path, busybox_rootfs(), headers={"Content-Type": "text/plain"})
    return api.get(f"/images/{reference}/json")["Id"]


def quote(text: str) -> str:
    import urllib.parse

    return urllib.parse.quote(text, safe="")
