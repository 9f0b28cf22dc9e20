"""The image store driven by image_tool, and tar archives made to order."""

import io
import json
import hashlib
import os
import pathlib
import subprocess
import tarfile

from support.binaries import binary


class Store:
    """A data root of its own."""

    def __init__(self, root: pathlib.Path):
        self.root = root

    def run(self, *arguments, check=True, stdin=None, env=None) -> subprocess.CompletedProcess:
        command = [binary("image_tool"), str(self.root), *map(str, arguments)]
        result = subprocess.run(command, input=stdin, capture_output=True, timeout=120, env={**os.environ, **(env or {})})
        if check:
            assert result.returncode == 0, result.stderr.decode()
        return result

    def out(self, *arguments, **keywords) -> str:
        return self.run(*arguments, **keywords).stdout.decode().strip()

    def imported(self, archive: bytes, *changes) -> str:
        return self.out("import", "-", *changes, stdin=archive)

    def refused(self, archive: bytes, verb="import", env=None) -> str:
        """The error's text; that nothing stayed behind is checked."""
        before = self.snapshot()
        result = self.run(verb, "-", check=False, stdin=archive, env=env)
        assert result.returncode == 1, (result.returncode, result.stdout, result.stderr)
        assert self.snapshot() == before
        return result.stderr.decode()

    def snapshot(self) -> list[str]:
        return sorted(str(p.relative_to(self.root)) for top in ("layers", "content", "images", "trash", "containers") for p in (self.root / top).rglob("*")
                      if p.name != "durable")

    def layers(self) -> list[str]:
        return self.out("layers").split()

    def tree(self, diff_id: str) -> pathlib.Path:
        return self.root / "layers" / diff_id.removeprefix("sha256:") / "diff"

    def only_tree(self) -> pathlib.Path:
        (layer,) = self.layers()
        return self.tree(layer)


def entry(name, type=tarfile.REGTYPE, content=b"", link="", mode=0o644, **attributes) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode, info.size = type, link, mode, len(content)
    for key, value in attributes.items():
        setattr(info, key, value)
    return info, content


def folder(name, mode=0o755, **attributes):
    return entry(name, tarfile.DIRTYPE, mode=mode, **attributes)


def symlink(name, target):
    return entry(name, tarfile.SYMTYPE, link=target)


def hard_link(name, target):
    return entry(name, tarfile.LNKTYPE, link=target)


def tar(*entries, format=tarfile.PAX_FORMAT) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=format) as archive:
        for info, content in entries:
            archive.addfile(info, io.BytesIO(content))
    return raw.getvalue()


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def image_config(*layers: bytes, **more) -> bytes:
    return json.dumps({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["sh"]},
                       "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]}, **more}).encode()
