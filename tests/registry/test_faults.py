"""wherryd killed at any point of pull, push, load, rmi, prune; a full disk; files changed on disk: a clear error, a clean
next start, nothing acknowledged lost, no half layer visible."""

import contextlib
import gzip
import os
import random
import subprocess
import threading
import time

import pytest
from conftest import LONG, traces
from hostile import ScriptedRegistry, layer_of, noise
from support.api import ApiError
from support.binaries import binary
from support.crashes import LATE, start_to_crash
from support.daemon import Daemon
from support.images import tar_of

MIB = 1 << 20


@pytest.fixture(scope="module")
def daemon():
    with Daemon("--max-download-attempts", "2", network=False) as running:
        running.import_busybox()
        yield running


@pytest.fixture(scope="module")
def kept(daemon):
    """An image that must survive everything, with a container of it."""
    with ScriptedRegistry() as registry:
        image = registry.add_image("kept/image", "1", [layer_of({"a": noise(100_000)}), layer_of({"b": noise(100_000, b"b")})])
        name = f"{registry.host}/kept/image:1"
        daemon.wherry("pull", name)
        yield name, image
        daemon.wherry("rmi", "-f", name)


def consistent(daemon, kept):
    """What is listed is whole; what is on disk is listed; what was there is there."""
    name, image = kept
    assert daemon.api.get(f"/images/{name}/json")["Id"] == image.id
    wanted = set()
    for listed in daemon.api.get("/images/json"):
        assert listed["RepoTags"] or listed["RepoDigests"], f"an image nobody was told of: {listed}"
        view = daemon.api.get(f"/images/{listed['Id']}/json")
        wanted |= {layer.removeprefix("sha256:") for layer in view["RootFS"]["Layers"]}
        checked = daemon.api.get(f"/wherry/images/{listed['Id']}/verify")
        assert checked["Intact"], checked
    found = traces(daemon)
    assert set(found["layers"]) == wanted, "layers on disk are not those of the images"
    assert found["ingests"] == []
    assert {one.removesuffix(".json") for one in found["images"]} == set(found["blobs"])


def restart_after_death(daemon):
    deadline = time.monotonic() + 20
    while daemon.process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    assert daemon.process.poll() is not None, "the daemon did not die"
    daemon.process = None
    daemon.start()


def quietly(work):
    with contextlib.suppress(OSError, ApiError, ValueError, EOFError, Exception):
        work()


def images_of(daemon, name):
    return [image for image in daemon.api.get("/images/json") if name in (image["RepoTags"] or [])]


@LATE
@pytest.mark.parametrize("point", ["pull.stored", "pull.adopted", "push.sent", "image.untagged", "image.delete", "load.stored", "prune.image"])
def test_killed_at(daemon, kept, registry, point, late, tmp_path):
    image = registry.add_image("a/b", "1", [layer_of({"x": noise(300_000)}), layer_of({"y": b"y"})])
    name = f"{registry.host}/a/b:1"
    archive = tmp_path / "image.tar"
    if point in ("load.stored", "prune.image"):
        daemon.wherry("pull", name)
        daemon.wherry("save", "-o", str(archive), name)
        daemon.wherry("rmi", name)
    if point == "prune.image":
        daemon.api.ok("POST", "/images/create?fromSrc=-", tar_of({"dangling": noise(1000)}), headers={"Content-Type": "text/plain"})
    daemon.stop()
    start_to_crash(daemon, point + late)
    acknowledged = []

    def work():
        if point == "load.stored":
            daemon.wherry("load", "-i", str(archive))
        elif point == "prune.image":
            daemon.wherry("image", "prune", "-f")
        else:
            daemon.wherry("pull", name)
            acknowledged.append("pulled")
            daemon.wherry("tag", name, f"{registry.host}/c/d:1")
            daemon.wherry("push", f"{registry.host}/c/d:1")
            acknowledged.append("pushed")
            daemon.wherry("rmi", f"{registry.host}/c/d:1")
            daemon.wherry("rmi", name)
            acknowledged.append("removed")

    with contextlib.suppress(AssertionError):  # the client says so
        work()
    restart_after_death(daemon)
    if point == "prune.image":
        # Either it went or it is still there to be pruned.
        daemon.wherry("image", "prune", "-f")
    if "pulled" in acknowledged and point not in ("image.untagged", "image.delete"):
        assert images_of(daemon, name), "an acknowledged pull is lost"
    if point == "pull.stored":
        assert not images_of(daemon, name)
    consistent(daemon, kept)
    # And everything can be done again.
    daemon.wherry("pull", name)
    assert daemon.api.get(f"/images/{name}/json")["Id"] == image.id
    for tag in (f"{registry.host}/c/d:1", name):
        daemon.wherry("rmi", "-f", tag, check=False)
    consistent(daemon, kept)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95, 1.0])
def test_killed_while_bytes_come(daemon, kept, registry, share):
    """The registry knows how far the download is: there the daemon dies."""
    registry.add_image("a/b", "1", [layer_of({f"file{n}": noise(20_000, bytes([n, layer]))for n in range(40)}) for layer in range(4)])
    name = f"{registry.host}/a/b:1"
    total = sum(len(data) for data in registry.blobs.values())
    pulling = subprocess.Popen([binary("wherry"), "pull", name], env=daemon.client_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    registry.wait_for_bytes(int(total * share))
    daemon.kill()
    _, error = pulling.communicate(timeout=30)
    acknowledged = pulling.returncode == 0
    daemon.start()
    assert bool(images_of(daemon, name)) or not acknowledged
    consistent(daemon, kept)
    daemon.wherry("pull", name)
    daemon.wherry("rmi", name)
    consistent(daemon, kept)


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_killed_while_bytes_go(daemon, kept, registry, share):
    source = registry.add_image("a/b", "1", [layer_of({"x": noise(2 * MIB)})])
    name = f"{registry.host}/a/b:1"
    daemon.wherry("pull", name)
    target = ScriptedRegistry()
    with target:
        daemon.wherry("tag", name, f"{target.host}/to:1")
        got = threading.Event()

        def kill_while_reading(handler, held):
            handler.rfile.read(int(len(source.blobs[0]) * share))
            daemon.process.kill()
            got.set()
            handler.close_connection = True

        target.on("/blobs/uploads/", kill_while_reading, times=1, method="PUT")
        pushing = subprocess.Popen([binary("wherry"), "push", f"{target.host}/to:1"], env=daemon.client_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        assert got.wait(30)
        assert pushing.wait(30) != 0
        restart_after_death(daemon)
        assert ("to", "1") not in target.manifests
        consistent(daemon, kept)
        daemon.wherry("push", f"{target.host}/to:1")
        daemon.wherry("rmi", f"{target.host}/to:1", name)
        consistent(daemon, kept)


def test_killed_at_any_moment(daemon, kept, registry, tmp_path):
    """Pulls, pushes, loads, removals and prunings side by side, and kill -9 in the midst of them."""
    chance = random.Random(7)
    images = [registry.add_image(f"r/{number}", "1", [layer_of({"shared": noise(50_000)}), layer_of({"own": noise(150_000, bytes([number]))})]) for number in range(4)]
    names = [f"{registry.host}/r/{number}:1" for number in range(len(images))]
    archive = tmp_path / "image.tar"
    daemon.wherry("pull", names[0])
    daemon.wherry("save", "-o", str(archive), names[0])
    for round_number in range(40 if LONG else 8):
        stop = threading.Event()

        def worker(seed):
            own = random.Random(seed)
            while not stop.is_set():
                name = own.choice(names)
                verb = own.choice([["pull", name], ["pull", name], ["rmi", "-f", name], ["push", name], ["load", "-i", str(archive)], ["image", "prune", "-f"]])
                with contextlib.suppress(Exception):
                    daemon.wherry(*verb, check=False, timeout=30)

        threads = [threading.Thread(target=worker, args=(round_number * 10 + n,)) for n in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(chance.uniform(0.05, 0.8))
        daemon.kill()
        stop.set()
        for thread in threads:
            thread.join(60)
        daemon.start()
        consistent(daemon, kept)
    for name in names:
        daemon.wherry("rmi", "-f", name, check=False)
    consistent(daemon, kept)


# A full disk


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip("tmpfs can't be mounted here")
    yield folder
    for _ in range(50):
        if subprocess.run(["umount", str(folder)], capture_output=True, check=False).returncode == 0:
            return
        time.sleep(0.1)
    subprocess.run(["umount", "-l", str(folder)], check=False)


def test_full_disk(small_disk, registry):
    """A pull that has no room says so and leaves the room it took; the daemon goes on, and so do later pulls."""
    (small_disk / "root").mkdir()
    with Daemon(network=False, root=str(small_disk / "root")) as daemon:
        small = registry.add_image("small/one", "1", [layer_of({"x": noise(500_000)})])
        registry.add_image("large/one", "1", [layer_of({"x": noise(2 * MIB, b"l")}), layer_of({"y": noise(14 * MIB, b"m")})])
        registry.add_image("bomb/one", "1", [layer_of({"zeros": bytes(60 * MIB)})])
        daemon.wherry("pull", f"{registry.host}/small/one:1")
        before = traces(daemon)
        free = os.statvfs(small_disk).f_bavail
        for name in ("large/one:1", "bomb/one:1"):
            result = daemon.wherry("pull", f"{registry.host}/{name}", check=False)
            assert result.returncode == 1
            assert "No space left on device" in result.stderr, result.stderr
            assert traces(daemon) == before
            deadline = time.monotonic() + 20
            while os.statvfs(small_disk).f_bavail < free - 256:
                assert time.monotonic() < deadline, "the room is not given back"
                time.sleep(0.05)
        archive = gzip.compress(tar_of({"big": noise(14 * MIB)}), 1)
        status, body = daemon.api.call("POST", "/images/create?fromSrc=-&repo=x", archive, {"Content-Type": "text/plain"})
        assert status >= 400
        assert "No space left on device" in body["message"]
        assert traces(daemon) == before
        daemon.restart()
        assert traces(daemon) == before
        assert daemon.api.get("/wherry/images/" + small.id + "/verify")["Intact"]
        daemon.wherry("rmi", f"{registry.host}/small/one:1")
        daemon.wherry("pull", f"{registry.host}/small/one:1")


# Leases


def test_removal_takes_nothing_from_under_a_pull(daemon, kept, registry):
    """Layers that a pull found here stay while it works, whatever is removed and pruned meanwhile."""
    shared = layer_of({"shared": noise(100_000, b"s")})
    registry.add_image("l/first", "1", [shared])
    second = registry.add_image("l/second", "1", [shared, layer_of({"own": noise(300_000)})])
    first, name = f"{registry.host}/l/first:1", f"{registry.host}/l/second:1"
    daemon.wherry("pull", first)
    from hostile import slowly

    registry.on("/blobs/" + second.layers[1], slowly(300_000))
    pulling = subprocess.Popen([binary("wherry"), "pull", name], env=daemon.client_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    registry.wait_for_request(second.layers[1])
    daemon.wherry("rmi", first)
    daemon.wherry("image", "prune", "-af", check=False)
    output, _ = pulling.communicate(timeout=60)
    assert pulling.returncode == 0, output
    assert not registry.seen("/blobs/" + second.layers[0]) or len(registry.seen("/blobs/" + second.layers[0])) == 1
    assert daemon.api.get(f"/wherry/images/{name}/verify")["Intact"]
    daemon.wherry("rmi", name)
    daemon.wherry("pull", kept[0], check=False)


# Tampering


def layer_folder(daemon, diff_id):
    return daemon.data_root / "layers" / diff_id.removeprefix("sha256:") / "diff"


def flip(path):
    with open(path, "r+b") as file:
        byte = file.read(1)
        file.seek(0)
        file.write(bytes([byte[0] ^ 1]))


@pytest.mark.parametrize(("spoil", "words"), [
    (lambda root: flip(root / "bin/tool"), "was changed"),
    (lambda root: os.truncate(root / "bin/tool", 10), "bin/tool is shorter than it was"),
    (lambda root: open(root / "bin/tool", "ab").write(b"more"), "/bin/tool was changed: its size"),
    (lambda root: os.chmod(root / "bin/tool", 0o4755), "/bin/tool was changed: its mode"),
    (lambda root: os.chown(root / "bin/tool", 12, 34), "/bin/tool was changed: its owner"),
    (lambda root: os.utime(root / "bin/tool", (5, 5)), "/bin/tool was changed: its time"),
    (lambda root: (root / "bin/added").write_bytes(b"x"), "/bin/added was changed: the layer has no such file"),
    (lambda root: os.unlink(root / "bin/link"), "/bin/link was changed: it is missing"),
    (lambda root: (os.unlink(root / "bin/link"), os.symlink("elsewhere", root / "bin/link")), "/bin/link was changed"),
    (lambda root: os.unlink(root / "bin/tool"), "bin/tool"),
    (lambda root: os.setxattr(root / "bin/tool", "user.x", b"y"), "/bin/tool was changed: its attributes"),
    (lambda root: os.chmod(root / "bin", 0o777), "/bin was changed: its mode"),
    (lambda root: os.mknod(root / "bin/device", 0o600 | 0o020000, os.makedev(1, 3)), "the layer has no such file"),
])
def test_changes_on_disk_are_found(daemon, kept, registry, spoil, words):
    image = registry.add_image("t/t", "1", [layer_of({"bin/": None, "bin/tool": noise(5000, words.encode()), "bin/link": b"->tool", "gone/.wh..wh..opq": b"", "bin/.wh.old": b""})])
    name = f"{registry.host}/t/t:1"
    daemon.wherry("pull", name)
    assert daemon.wherry("image", "verify", name).stdout == f"{name}: intact\n"
    folder = layer_folder(daemon, image.diff_ids[0])
    tool = os.stat(folder / "bin/tool")
    spoil(folder)
    if "time" not in words and (folder / "bin/tool").exists():
        os.utime(folder / "bin/tool", ns=(tool.st_atime_ns, tool.st_mtime_ns))  # an intruder covers his tracks
    result = daemon.wherry("image", "verify", name, check=False)
    assert result.returncode == 1
    assert words in result.stderr, result.stderr
    assert image.diff_ids[0] in result.stderr
    daemon.wherry("rmi", name)
    daemon.wherry("pull", name)
    assert daemon.wherry("image", "verify", name, kept[0]).returncode == 0
    daemon.wherry("rmi", name)


def test_a_changed_configuration_is_found(daemon, kept, registry):
    image = registry.add_image("t/t", "1", [layer_of({"x": b"y"})])
    name = f"{registry.host}/t/t:1"
    daemon.wherry("pull", name)
    blob = daemon.data_root / "content/blobs/sha256" / image.id.removeprefix("sha256:")
    os.chmod(blob, 0o600)
    blob.write_bytes(image.config.replace(b'"sh"', b'"no"'))
    result = daemon.wherry("image", "verify", name, check=False)
    assert result.returncode == 1
    assert "was changed" in result.stderr
    daemon.wherry("rmi", name)
    daemon.wherry("pull", name)
    assert daemon.wherry("image", "verify", name).returncode == 0
    daemon.wherry("rmi", name)

