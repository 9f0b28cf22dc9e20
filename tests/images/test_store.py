"""import, load, save, commit, export and removal, as archives from other tools and other tools' eyes see them."""

import gzip
import io
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tarfile
import time

import pytest

from store_tool import Store, digest, entry, folder, hard_link, image_config, symlink, tar

BASE = tar(folder("bin"), entry("bin/sh", content=b"#!shell", mode=0o755), folder("etc"), entry("etc/passwd", content=b"root"), folder("old"), entry("old/a"))
SECOND = tar(entry("etc/passwd", content=b"root and more"), entry("old/.wh..wh..opq"), entry("old/b", content=b"b"), entry(".wh.missing"))
CONFIG = image_config(BASE, SECOND)


def docker_archive(config=CONFIG, layers=(BASE, SECOND), tags=("app:1", "registry.test:5000/app:2"), **changes) -> bytes:
    """What docker save wrote up to version 24."""
    names = [digest(layer)[7:20] for layer in layers]
    manifest = {"Config": digest(config)[7:] + ".json", "RepoTags": list(tags), "Layers": [f"{name}/layer.tar" for name in names]}
    manifest.update(changes)
    entries = []
    for name, layer in dict(zip(names, layers)).items():
        entries += [folder(name), entry(f"{name}/VERSION", content=b"1.0"), entry(f"{name}/json", content=b"{}"), entry(f"{name}/layer.tar", content=layer)]
    entries += [entry(digest(config)[7:] + ".json", content=config), entry("manifest.json", content=json.dumps([manifest]).encode()),
                entry("repositories", content=b'{"app":{"1":"x"}}')]
    return tar(*entries, format=tarfile.USTAR_FORMAT)


def oci_files(config=CONFIG, layers=(BASE, SECOND), compress=gzip.compress, annotations=None, nested=False) -> dict[str, bytes]:
    blobs = [compress(layer) for layer in layers]
    kind = "+gzip" if compress is gzip.compress else ""
    descriptor = lambda media, blob, **more: {"mediaType": f"application/vnd.oci.image.{media}", "digest": digest(blob), "size": len(blob), **more}
    manifest = json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": descriptor("config.v1+json", config),
                           "layers": [descriptor("layer.v1.tar" + kind, blob) for blob in blobs]}).encode()
    platform = {"platform": {"os": "linux", "architecture": "amd64"}}
    entries = [descriptor("manifest.v1+json", manifest, annotations=annotations or {}, **platform)]
    more = []
    if nested:
        other = [descriptor("manifest.v1+json", b"not in the archive", platform={"os": "linux", "architecture": "s390x"}),
                 descriptor("manifest.v1+json", b"attestation", platform={"os": "unknown", "architecture": "unknown"})]
        inner = json.dumps({"schemaVersion": 2, "manifests": other + entries}).encode()
        more = [inner]
        entries = [descriptor("index.v1+json", inner, annotations=annotations or {})]
    index = json.dumps({"schemaVersion": 2, "manifests": entries}).encode()
    files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": index}
    files.update({"blobs/sha256/" + digest(blob)[7:]: blob for blob in [manifest, config, *blobs, *more]})
    return files


def as_tar(files: dict[str, bytes]) -> bytes:
    return tar(*[entry(name, content=content) for name, content in files.items()])


def check_loaded(store: Store, output: str, *names: str) -> str:
    image, *found = output.split()
    assert image == digest(CONFIG) and found == list(names)
    assert sorted(store.layers()) == sorted([digest(BASE), digest(SECOND)])
    assert (store.tree(digest(SECOND)) / "etc/passwd").read_bytes() == b"root and more"
    assert os.getxattr(store.tree(digest(SECOND)) / "old", "trusted.overlay.opaque") == b"y"
    store.run("verify", image)
    return image


def test_load_of_docker_archives(store):
    check_loaded(store, store.out("load", "-", stdin=docker_archive()), "docker.io/library/app:1", "registry.test:5000/app:2")
    again = store.snapshot()
    check_loaded(store, store.out("load", "-", stdin=gzip.compress(docker_archive())), "docker.io/library/app:1", "registry.test:5000/app:2")
    assert store.snapshot() == again


def test_layers_that_are_links(store):
    """docker save wrote a link where two images shared a layer."""
    base = tar(folder("x"), entry("x/layer.tar", content=BASE), folder("y"), symlink("y/layer.tar", "../x/layer.tar"), entry("c.json", content=image_config(BASE)),
               entry("manifest.json", content=json.dumps([{"Config": "c.json", "RepoTags": None, "Layers": ["y/layer.tar"]}]).encode()))
    assert store.out("load", "-", stdin=base) == digest(image_config(BASE))


@pytest.mark.parametrize("compress", [gzip.compress, lambda b: b])
@pytest.mark.parametrize("nested", [False, True])
def test_load_of_oci_layouts(store, tmp_path, compress, nested):
    name = {"io.containerd.image.name": "docker.io/library/app:1", "org.opencontainers.image.ref.name": "1"}
    files = oci_files(compress=compress, annotations=name, nested=nested)
    check_loaded(store, store.out("load", "-", stdin=as_tar(files)), "docker.io/library/app:1")
    other = Store(tmp_path / "other")
    layout = tmp_path / "layout"
    for path, content in files.items():
        (layout / path).parent.mkdir(parents=True, exist_ok=True)
        (layout / path).write_bytes(content)
    check_loaded(other, other.out("load", layout), "docker.io/library/app:1")


def test_save_gives_back_what_was_loaded(store, tmp_path):
    image = store.out("load", "-", stdin=docker_archive()).split()[0]
    store.run("save", tmp_path / "saved.tar", f"{image}=app:1", f"{image}=quay.io/x/y:2")
    with tarfile.open(tmp_path / "saved.tar") as saved:
        read = lambda name: saved.extractfile(name).read()
        blob = lambda name: read("blobs/sha256/" + name.removeprefix("sha256:"))
        assert blob(digest(BASE)) == BASE and blob(digest(SECOND)) == SECOND and blob(image) == CONFIG
        first, second = json.loads(read("manifest.json"))
        assert first["RepoTags"] == ["app:1"] and second["RepoTags"] == ["quay.io/x/y:2"]
        assert [read(path) for path in first["Layers"]] == [BASE, SECOND] and read(first["Config"]) == CONFIG
        for descriptor in json.loads(read("index.json"))["manifests"]:
            manifest = blob(descriptor["digest"])
            assert digest(manifest) == descriptor["digest"] and len(manifest) == descriptor["size"]
            assert [layer["digest"] for layer in json.loads(manifest)["layers"]] == [digest(BASE), digest(SECOND)]
        assert len(saved.getnames()) == len(set(saved.getnames()))
    other = Store(tmp_path / "other")
    assert other.out("load", tmp_path / "saved.tar").splitlines()[0] == f"{image} docker.io/library/app:1"
    other.run("save", tmp_path / "again.tar", f"{image}=app:1", f"{image}=quay.io/x/y:2")
    assert (tmp_path / "again.tar").read_bytes() == (tmp_path / "saved.tar").read_bytes()


def test_foreign_reader(store, tmp_path):
    if shutil.which("skopeo") is None:
        pytest.skip("skopeo is not installed")
    image = store.out("load", "-", stdin=docker_archive()).split()[0]
    store.run("save", tmp_path / "saved.tar", f"{image}=app:1")
    for source in (f"docker-archive:{tmp_path}/saved.tar", f"oci-archive:{tmp_path}/saved.tar"):
        target = tmp_path / "copy"
        subprocess.run(["skopeo", "copy", "--insecure-policy", "-q", source, f"dir:{target}"], check=True, timeout=60)
        manifest = json.loads((target / "manifest.json").read_text())
        assert manifest["config"]["digest"] == image
        shutil.rmtree(target)
    for target in (f"docker-archive:{tmp_path}/theirs.tar:app:1", f"oci-archive:{tmp_path}/oci.tar:app:1", f"oci:{tmp_path}/layout:app:1"):
        subprocess.run(["skopeo", "copy", "--insecure-policy", "-q", f"docker-archive:{tmp_path}/saved.tar", target], check=True, timeout=60)
        other = Store(tmp_path / target.split(":")[0])
        loaded = other.out("load", target.split(":")[1]).split()
        assert loaded[1:] == ["docker.io/library/app:1"]
        assert sorted(other.layers()) == sorted([digest(BASE), digest(SECOND)])


def test_bad_archives_are_refused_and_leave_nothing(store):
    refused = lambda archive: store.refused(archive, verb="load")
    assert "neither manifest.json nor index.json" in refused(BASE)
    assert "tar" in refused(b"no archive" * 100)
    assert "older than 1.10" in refused(tar(entry("repositories", content=b"{}")))
    assert "layers length mismatch: expected 2, got 1" in refused(docker_archive(layers=(BASE,)))
    assert "invalid diffID for layer 0" in refused(docker_archive(layers=(SECOND, BASE)))
    assert "outside" in refused(docker_archive(Layers=["../../etc/passwd", "x"]))
    assert "outside" in refused(docker_archive(Config="../../../etc/passwd"))
    assert "image archive: it has no" in refused(docker_archive(Config="other.json"))
    assert "RepoTags" in refused(docker_archive(tags=["Not A Name"]))
    assert "array" in refused(tar(entry("manifest.json", content=b"{}")))
    assert "rootfs" in refused(docker_archive(config=b"{}"))
    assert "unexpected end" in refused(docker_archive()[:9000])
    files = oci_files()
    for name in list(files):
        if name.startswith("blobs/"):
            assert refused(as_tar({k: v for k, v in files.items() if k != name}))
            assert refused(as_tar({**files, name: files[name][:-8] + b"\0" * 8}))
    other = dict(files)
    swapped = [n for n in files if n.startswith("blobs/") and files[n].startswith(b"\x1f\x8b")]
    other[swapped[0]], other[swapped[1]] = files[swapped[1]], files[swapped[0]]
    assert "other content than its name says" in refused(as_tar(other))
    index = json.loads(files["index.json"])
    index["manifests"] = [dict(index["manifests"][0], platform={"os": "linux", "architecture": "s390x"})] * 2
    assert "no image for linux/amd64" in refused(as_tar({**files, "index.json": json.dumps(index).encode()}))


def test_a_broken_layer_takes_back_the_good_ones(store):
    evil = tar(entry("../evil"))
    assert "outside" in store.refused(docker_archive(config=image_config(BASE, evil), layers=(BASE, evil)), verb="load")
    assert store.layers() == []


def test_import_changes(store):
    image = store.imported(gzip.compress(BASE), 'CMD ["sh", "-l"]', "ENV A=1 B=2", "EXPOSE 80", "WORKDIR /srv")
    config = json.loads(store.out("show", image))
    assert config["config"] == {"Cmd": ["sh", "-l"], "Env": ["A=1", "B=2"], "ExposedPorts": {"80/tcp": {}}, "WorkingDir": "/srv"}
    assert config["rootfs"]["diff_ids"] == [digest(BASE)] and config["architecture"] == "amd64"
    assert config["history"][0]["comment"] == "Imported from -"
    bad = store.run("import", "-", "RUN x", check=False, stdin=BASE)
    assert b"RUN is not a valid change command" in bad.stderr


def test_removal_keeps_shared_layers(store):
    both = store.out("load", "-", stdin=docker_archive()).split()[0]
    one = store.imported(BASE)
    store.run("rm", both)
    assert store.layers() == [digest(BASE)]
    assert b"No such image" in store.run("rm", both, check=False).stderr
    store.run("verify", one)
    store.run("rm", one)
    assert store.snapshot() == ["content/blobs", "content/blobs/sha256", "content/ingest"]


@pytest.fixture
def container(store):
    """A container of the loaded image with changes in its writable layer."""
    image = store.out("load", "-", stdin=docker_archive()).split()[0]
    store.run("prepare", "c1", image)
    upper = store.root / "containers/c1/upper"
    (upper / "etc").mkdir(mode=0o700)
    (upper / "etc/passwd").write_bytes(b"changed")
    (upper / "new").mkdir()
    (upper / "new/file").write_bytes(b"new")
    os.link(upper / "new/file", upper / "new/link")
    os.symlink("/etc/passwd", upper / "new/sym")
    os.mknod(upper / "bin", 0o20000, 0)
    os.setxattr(upper / "new/file", "user.a", b"b\0c")
    os.utime(upper / "new/file", ns=(0, 1234567890123456789))
    (upper / "old").mkdir()
    os.setxattr(upper / "old", "trusted.overlay.opaque", b"y")
    (upper / "old/only").touch()
    with open(upper / "holes", "wb") as file:
        file.seek(50 << 20)
        file.write(b"end")
    return store, image


def test_changes_of_a_container(container):
    store, image = container
    assert store.out("changes", "c1", image).splitlines() == [
        "D /bin", "C /etc", "C /etc/passwd", "A /holes", "A /new", "A /new/file", "A /new/link", "A /new/sym", "C /old", "D /old/b", "A /old/only"]
    assert int(store.out("size", "c1", image)) == (50 << 20) + 3 + 3 + 7


def test_commit_then_run_from_it(container):
    store, image = container
    committed = store.out("commit", "c1", image)
    config = json.loads(store.out("show", committed))
    assert config["rootfs"]["diff_ids"][:2] == [digest(BASE), digest(SECOND)] and len(config["rootfs"]["diff_ids"]) == 3
    tree = store.tree(config["rootfs"]["diff_ids"][2])
    assert (tree / "bin").lstat().st_rdev == 0 and os.getxattr(tree / "old", "trusted.overlay.opaque") == b"y"
    file = (tree / "new/file").stat()
    assert file.st_mtime_ns == 1234567890123456789 and file.st_nlink == 2 and os.getxattr(tree / "new/file", "user.a") == b"b\0c"
    assert (tree / "holes").stat().st_blocks < 100 and (tree / "holes").stat().st_size == (50 << 20) + 3
    store.run("verify", committed)


def test_export_is_the_whole_root(container):
    store, image = container
    archive = tarfile.open(fileobj=io.BytesIO(store.run("export", "c1", image, "-").stdout))
    names = archive.getnames()
    assert names == sorted(names) and set(names) == {"etc", "etc/passwd", "holes", "new", "new/file", "new/link", "new/sym", "old", "old/only"}
    assert archive.extractfile("etc/passwd").read() == b"changed" and archive.getmember("new/link").islnk()
    assert archive.getmember("holes").size == (50 << 20) + 3
    before = pathlib.Path("/proc/self/mounts").read_text()
    assert str(store.root) not in before  # nothing was mounted where anyone could see it


def test_tampering_is_found(store):
    image = store.imported(BASE)
    victim = store.only_tree() / "etc/passwd"
    victim.write_bytes(b"toor")
    found = store.run("verify", image, check=False)
    assert b"data loss" in found.stderr and b"was changed" in found.stderr
    victim.unlink()
    assert b"etc/passwd" in store.run("verify", image, check=False).stderr
    assert store.run("save", "/dev/null", image, check=False).returncode == 1


def test_killed_at_any_moment(store, tmp_path):
    """What a killed import leaves is gone after the next start, and what was acknowledged is there."""
    kept = store.imported(BASE)
    big = tar(*[entry(f"d{i}/f{i}", content=os.urandom(2000)) for i in range(3000)])
    (tmp_path / "big.tar").write_bytes(big)
    from support.binaries import binary
    for milliseconds in (2, 5, 10, 20, 40, 80, 120):
        child = subprocess.Popen([binary("image_tool"), str(store.root), "import", str(tmp_path / "big.tar")], stdout=subprocess.DEVNULL)
        time.sleep(milliseconds / 1000)
        child.send_signal(signal.SIGKILL)
        child.wait()
        store.run("gc")
        assert not list((store.root / "layers").glob("tmp-*")) and not os.listdir(store.root / "trash") and not os.listdir(store.root / "content/ingest")
        for line in store.out("list").splitlines():
            store.run("verify", line.split()[0])
        store.run("verify", kept)


def test_layer_not_written_out_before_a_power_cut_is_dropped(store):
    image = store.imported(BASE)
    layer = store.only_tree().parent
    (layer / "durable").unlink()
    record = json.loads((layer / "layer.json").read_text())
    record["boot_id"] = "another boot"
    (layer / "layer.json").write_text(json.dumps(record))
    assert store.out("list") == "" and store.layers() == []
    assert store.imported(BASE) != "" and image


def test_concurrent_imports_of_one_layer(store, tmp_path):
    from support.binaries import binary
    (tmp_path / "a.tar").write_bytes(tar(*[entry(f"f{i}", content=os.urandom(500)) for i in range(500)]))
    # Within one process: several archives in one load, all with the same layer.
    layer = (tmp_path / "a.tar").read_bytes()
    files = {}
    manifests = []
    for i in range(5):
        config = image_config(layer, author=f"a{i}")
        files[f"{i}.json"] = config
        files[f"{i}/layer.tar"] = layer
        manifests.append({"Config": f"{i}.json", "RepoTags": [f"app:{i}"], "Layers": [f"{i}/layer.tar"]})
    files["manifest.json"] = json.dumps(manifests).encode()
    assert len(store.out("load", "-", stdin=as_tar(files)).splitlines()) == 5
    assert store.layers() == [digest(layer)]
    assert binary("image_tool")
