"""`wherry adopt` on a data root that Debian's dockerd 20.10 made: images, a committed layer, volumes, stopped containers."""

import json
import os
import pathlib
import shutil
import subprocess

import pytest

from support import binaries
from support.daemon import Daemon
from support.dockerd import Dockerd
from support.images import busybox_rootfs


def tree_of(folder: pathlib.Path) -> dict[str, tuple]:
    """What must not change: everything but the count of links and the times that reading or linking moves."""
    found = {}
    for base, folders, files in os.walk(folder):
        for name in folders + files:
            path = os.path.join(base, name)
            info = os.lstat(path)
            found[os.path.relpath(path, folder)] = (info.st_mode, info.st_uid, info.st_gid, info.st_size, info.st_mtime_ns, info.st_ino)
    return found


@pytest.fixture(scope="module")
def docker_root():
    """The folder of a dockerd that was stopped, with what a user would have left in it."""
    dockerd = Dockerd()
    try:
        dockerd.docker("import", "-", "busybox:latest", "-c", "ENV PATH=/bin:/sbin:/usr/bin", "-c", 'CMD ["sh"]', input=busybox_rootfs())
        dockerd.docker("run", "--name", "builder", "busybox", "sh", "-c",
                       "echo layered > /etc/layered; ln /etc/layered /etc/hard; rm /etc/group; mkdir /opaque; chmod 4711 /bin/busybox")
        dockerd.docker("commit", "builder", "app:2")
        dockerd.docker("rm", "builder")
        dockerd.docker("tag", "app:2", "registry.example:5000/team/app:latest")
        dockerd.docker("volume", "create", "data")
        dockerd.docker("run", "--rm", "-v", "data:/data", "busybox", "sh", "-c", "echo kept > /data/file; chown 1000:1000 /data/file; chmod 600 /data/file; ln -s file /data/link")
        dockerd.docker("run", "--name", "web", "-v", "data:/data", "-v", "/anonymous", "-e", "COLOUR=blue", "-w", "/tmp", "--label", "team=a",
                       "app:2", "sh", "-c", "echo written >> /written; echo inside > /anonymous/file; rm -f /etc/layered; cat /data/file; [ ! -e /fail ] || exit 3")
        dockerd.docker("create", "--name", "sidecar", "--network", "container:web", "busybox", "true")
        dockerd.docker("network", "create", "--subnet", "10.213.92.0/24", "own")
        dockerd.docker("create", "--name", "networked", "--network", "own", "busybox", "true")
        root = dockerd.folder / "data"
        ids = {name: json.loads(dockerd.docker("image", "inspect", name).stdout)[0]["Id"] for name in ("busybox", "app:2")}
        dockerd.stop()
        yield root, ids
    finally:
        dockerd.close()


def adopt(daemon: Daemon, root: pathlib.Path, *flags: str, check: bool = True):
    return daemon.wherry("adopt", *flags, str(root), check=check, timeout=180)


@pytest.fixture(scope="module")
def adopted(docker_root):
    root, ids = docker_root
    before = tree_of(root)
    with Daemon() as daemon:
        dry = adopt(daemon, root, "--dry-run")
        assert "would be adopted" in dry.stdout and not daemon.api.get("/images/json")
        done = adopt(daemon, root)
        yield daemon, done, root, ids
        # Docker's root is as it was.
        assert tree_of(root) == before


def test_images_have_their_ids_names_and_content(adopted):
    daemon, done, _, ids = adopted
    for name, identifier in ids.items():
        assert daemon.api.get(f"/images/{name}/json")["Id"] == identifier
    assert daemon.api.get("/images/registry.example:5000%2Fteam%2Fapp:latest/json")["Id"] == ids["app:2"]
    assert len(daemon.api.get("/images/app:2/json")["RootFS"]["Layers"]) == 2
    assert "image busybox:latest: adopted" in done.stdout
    run = daemon.wherry("run", "--rm", "app:2", "sh", "-c", "cat /etc/layered /etc/hard; [ ! -e /etc/group ] && stat -c %a /bin/busybox")
    assert run.stdout == "layered\nlayered\n4711\n"
    for name in ids:
        assert "intact" in daemon.wherry("image", "verify", name).stdout


def test_layers_share_their_files_with_dockers(adopted):
    daemon, done, root, _ = adopted
    assert "shared with Docker" in done.stdout
    ours = [path for path in (daemon.data_root / "layers").glob("*/diff/bin/busybox")]
    theirs = {os.stat(path).st_ino for path in root.glob("overlay2/*/diff/bin/busybox")}
    assert ours and all(os.stat(path).st_ino in theirs for path in ours)


def test_an_adopted_image_can_be_saved(adopted):
    daemon, _, _, ids = adopted
    archive = daemon.root / "saved.tar"
    daemon.wherry("save", "-o", str(archive), "app:2", timeout=120)
    with Daemon(network=False) as other:
        assert "Loaded image" in other.wherry("load", "-i", str(archive), timeout=120).stdout
        assert other.api.get("/images/app:2/json")["Id"] == ids["app:2"]


def test_volumes_have_their_content(adopted):
    daemon, _, root, _ = adopted
    ours = pathlib.Path(daemon.api.get("/volumes/data")["Mountpoint"])
    info = os.stat(ours / "file")
    assert (ours / "file").read_text() == "kept\n" and (info.st_uid, info.st_mode & 0o777) == (1000, 0o600)
    assert os.readlink(ours / "link") == "file"
    # Copied, not linked: what is written here must not reach Docker's.
    assert info.st_ino != os.stat(root / "volumes/data/_data/file").st_ino


def test_a_stopped_container_goes_on(adopted):
    daemon, done, _, ids = adopted
    view = daemon.api.get("/containers/web/json")
    assert view["Image"] == ids["app:2"] and view["Config"]["Image"] == "app:2"
    assert "COLOUR=blue" in view["Config"]["Env"] and view["Config"]["WorkingDir"] == "/tmp" and view["Config"]["Labels"]["team"] == "a"
    anonymous = next(mount for mount in view["Mounts"] if mount["Destination"] == "/anonymous")
    assert (pathlib.Path(anonymous["Source"]) / "file").read_text() == "inside\n"
    assert daemon.wherry("diff", "web").stdout.splitlines().count("A /written") == 1
    started = daemon.wherry("start", "-a", "web")
    assert started.stdout == "kept\n"
    copied = daemon.wherry("cp", "web:/written", "-", text=False).stdout
    assert b"written\nwritten\n" in copied  # once under Docker, once here
    assert "D /etc/layered" in daemon.wherry("diff", "web").stdout


def test_what_differs_is_said(adopted):
    daemon, done, _, _ = adopted
    assert "container networked: its network own is not there: it gets the bridge" in done.stderr
    assert daemon.api.get("/containers/networked/json")["HostConfig"]["NetworkMode"] == "bridge"
    web = daemon.api.get("/containers/web/json")["Id"]
    assert daemon.api.get("/containers/sidecar/json")["HostConfig"]["NetworkMode"] == f"container:{web}"


def test_again_changes_nothing(adopted):
    daemon, _, root, _ = adopted
    containers, images = daemon.api.get("/containers/json", all=1), daemon.api.get("/images/json")
    again = adopt(daemon, root)
    assert again.returncode == 0 and "adopted," not in again.stdout and "is there already" in again.stdout
    assert [c["Id"] for c in daemon.api.get("/containers/json", all=1)] == [c["Id"] for c in containers]
    assert [i["Id"] for i in daemon.api.get("/images/json")] == [i["Id"] for i in images]


@pytest.fixture
def copy_of_root(docker_root, tmp_path):
    root, ids = docker_root
    copy = tmp_path / "docker"
    subprocess.run(["cp", "-a", str(root), str(copy)], check=True)
    yield copy, ids
    shutil.rmtree(copy, ignore_errors=True)


def first(pattern, root: pathlib.Path) -> pathlib.Path:
    return sorted(root.glob(pattern))[0]


def test_a_running_container_is_left_behind(copy_of_root):
    root, _ = copy_of_root
    for path in root.glob("containers/*/config.v2.json"):
        state = json.loads(path.read_text())
        if state["Name"] == "/web":
            state["State"]["Running"] = True
            path.write_text(json.dumps(state))
    with Daemon(network=False) as daemon:
        done = adopt(daemon, root, check=False)
        assert done.returncode == 1 and "container web: not adopted: Docker has it as running" in done.stderr
        assert "container sidecar: not adopted:" in done.stderr
        assert daemon.api.get("/images/app:2/json")


def test_a_changed_layer_is_refused_and_leaves_nothing(copy_of_root):
    root, _ = copy_of_root
    victim = next(path for path in root.glob("overlay2/*/diff/etc/passwd") if path.is_file())
    size = victim.stat().st_size
    os.chmod(victim, 0o644)
    victim.write_bytes(b"x" * size)
    with Daemon(network=False) as daemon:
        done = adopt(daemon, root, check=False)
        assert done.returncode == 1 and "image busybox:latest: not adopted:" in done.stderr
        assert not daemon.api.get("/images/json")


def test_hostile_roots_are_refused(copy_of_root):
    root, ids = copy_of_root
    layers = root / "image/overlay2/layerdb/sha256"
    for folder in layers.iterdir():
        (folder / "cache-id").write_text("../../../../etc")
    moved = root / "volumes/data/_data"
    moved.rename(root / "moved")
    moved.symlink_to("/etc")
    for path in root.glob("containers/*/config.v2.json"):
        path.write_text('{"ID": [')
    with Daemon(network=False) as daemon:
        done = adopt(daemon, root, check=False)
        assert done.returncode == 1
        assert done.stderr.count("not the name of a folder of overlay2") == 2
        assert "volume data: not adopted:" in done.stderr and "symbolic link" in done.stderr
        assert done.stderr.count("container ") == 3
        assert not daemon.api.get("/images/json") and not daemon.containers()
        (root / "image/overlay2/repositories.json").write_text("[]")
        done = adopt(daemon, root, check=False)
        assert done.returncode == 1 and "repositories.json" in done.stderr


def test_what_is_no_root_is_said(tmp_path):
    with Daemon(network=False) as daemon:
        done = adopt(daemon, tmp_path, check=False)
        assert done.returncode == 1 and "not a data root of Docker" in done.stderr
        (tmp_path / "image/btrfs").mkdir(parents=True)
        done = adopt(daemon, tmp_path, check=False)
        assert done.returncode == 1 and "only overlay2 can be adopted" in done.stderr
        done = daemon.wherry("adopt", str(tmp_path / "nowhere"), check=False)
        assert done.returncode == 1
    binaries.need_root()
