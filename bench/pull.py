#!/usr/bin/python3
"""Pull and import, beside dockerd and tar: wall time, processor time and memory of all processes involved.

  pull    an image of 600 MB (files of this host's Debian packages, five layers, gzip) from a docker-registry on loopback,
          with the stock docker CLI, by dockerd and by wherryd in turn; bar: at most 0.5 of dockerd's wall time
  import  a root file system of 300 MB as a plain tar, by wherry and by `tar -x` in turn; bar: at most 1.3 times tar
  memory  largest PSS of wherryd and its children during either; bar: 64 MiB

Run as root: bench/pull.py [--rounds 5] [--only pull,import]. Everything happens in a network namespace of its own.
"""
import argparse
import hashlib
import http.client
import json
import os
import pathlib
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import zlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
BIN = pathlib.Path(os.environ.get("WHERRY_BIN", ROOT / "build/release/bin"))
DOCKER = shutil.which("docker", path="/usr/local/bin:/usr/bin") or "docker"
MIB = 1 << 20
PORT = 5077
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


def descendants(pid: int) -> list[int]:
    found, left = [], [pid]
    while left:
        current = left.pop()
        found.append(current)
        try:
            for task in os.listdir(f"/proc/{current}/task"):
                left += map(int, pathlib.Path(f"/proc/{current}/task/{task}/children").read_text().split())
        except OSError:
            pass
    return found


def pss_kib(pid: int) -> int:
    try:
        for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    except OSError:
        pass
    return 0


def processor_seconds(pid: int) -> float:
    """Of a process, its children that ended, and its descendants that live."""
    total = 0
    for one in descendants(pid):
        try:
            fields = pathlib.Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[11:15]))
        except OSError:
            pass
    return total / os.sysconf("SC_CLK_TCK")


class Peak(threading.Thread):
    """Watches the PSS of a process and its descendants."""

    def __init__(self, pid: int):
        super().__init__(daemon=True)
        self.pid, self.kib, self.ended = pid, 0, threading.Event()

    def run(self):
        while not self.ended.wait(0.05):
            self.kib = max(self.kib, sum(map(pss_kib, descendants(self.pid))))

    def stop(self) -> float:
        self.ended.set()
        self.join()
        return self.kib / 1024


class Daemon:
    def __init__(self, name: str, folder: pathlib.Path, command: list[str]):
        self.name, self.socket = name, folder / "docker.sock"
        self.log_path = folder / "log"
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 60
        while self.cli("version").returncode != 0:
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise SystemExit(f"{name} does not start:\n{self.log_path.read_text(errors='replace')[-3000:]}")
            time.sleep(0.1)

    def cli(self, *arguments: str, program: str = DOCKER) -> subprocess.CompletedProcess:
        return subprocess.run([program, "-H", f"unix://{self.socket}", *arguments], capture_output=True, text=True)

    def must(self, *arguments: str, program: str = DOCKER) -> str:
        result = self.cli(*arguments, program=program)
        if result.returncode != 0:
            raise SystemExit(f"{self.name}: {' '.join(arguments)}: {result.stderr}\n{self.log_path.read_text(errors='replace')[-2000:]}")
        return result.stdout

    def measured(self, *arguments: str, program: str = DOCKER) -> tuple[float, float, float]:
        """(wall seconds, the daemon's processor seconds, largest PSS in MiB)."""
        peak = Peak(self.process.pid)
        peak.start()
        busy, begun = processor_seconds(self.process.pid), time.perf_counter()
        self.must(*arguments, program=program)
        wall = time.perf_counter() - begun
        return wall, processor_seconds(self.process.pid) - busy, peak.stop()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def debian_files(megabytes: int):
    """Paths of files of this host's Debian packages, in order, of that size together."""
    left = megabytes * MIB
    for base in ("/usr/lib/x86_64-linux-gnu", "/usr/bin", "/usr/share", "/usr/lib", "/usr/include", "/usr/sbin"):
        for folder, folders, names in os.walk(base):
            folders.sort()
            for name in sorted(names):
                path = os.path.join(folder, name)
                try:
                    status = os.lstat(path)
                except OSError:
                    continue
                if os.path.isfile(path) and not os.path.islink(path):
                    if status.st_size > 60 * MIB:
                        continue
                    left -= status.st_size
                yield path
                if left <= 0:
                    return


def make_tars(folder: pathlib.Path, megabytes: int, count: int) -> list[pathlib.Path]:
    share, size, number = megabytes * MIB // count, 0, 0
    tars, seen = [], set()
    tar = None
    for path in debian_files(megabytes):
        if path in seen:
            continue
        seen.add(path)
        if tar is None or size > share and len(tars) < count:
            if tar is not None:
                tar.close()
            number += 1
            tars.append(folder / f"layer{number}.tar")
            tar, size = tarfile.open(tars[-1], "w", format=tarfile.GNU_FORMAT), 0
        try:
            tar.add(path, recursive=False)
            size += os.lstat(path).st_size
        except OSError:
            pass
    tar.close()
    return tars


def compress(path: pathlib.Path) -> pathlib.Path:
    target = path.with_suffix(".tar.gz")
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    with open(path, "rb") as source, open(target, "wb") as out:
        while piece := source.read(4 * MIB):
            out.write(packer.compress(piece))
        out.write(packer.flush())
    return target


def digest_of(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


class Registry:
    def __init__(self, folder: pathlib.Path):
        configuration = folder / "config.yml"
        configuration.write_text(f"version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {folder}/data}}\n"
                                 f"http: {{addr: '127.0.0.1:{PORT}', secret: x}}\n")
        self.process = subprocess.Popen(["docker-registry", "serve", str(configuration)], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", PORT), 1).close()
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise SystemExit("docker-registry does not listen") from None
                time.sleep(0.05)

    def ask(self, method: str, path: str, body=None, **headers) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=120)
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        answer.read()
        if answer.status >= 400:
            raise SystemExit(f"registry: {method} {path}: {answer.status}")
        return answer

    def put_blob(self, repository: str, digest: str, data):
        where = self.ask("POST", f"/v2/{repository}/blobs/uploads/").getheader("Location").split(str(PORT), 1)[1]
        size = len(data) if isinstance(data, bytes) else os.fstat(data.fileno()).st_size
        self.ask("PUT", where + ("&" if "?" in where else "?") + "digest=" + digest, data, Content_Length=str(size))

    def put_image(self, repository: str, tars: list[pathlib.Path], blobs: list[pathlib.Path]):
        config = json.dumps({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["true"]}, "history": [],
                             "rootfs": {"type": "layers", "diff_ids": [digest_of(tar) for tar in tars]}}).encode()
        config_digest = "sha256:" + hashlib.sha256(config).hexdigest()
        self.put_blob(repository, config_digest, config)
        layers = []
        for blob in blobs:
            with open(blob, "rb") as file:
                self.put_blob(repository, digest_of(blob), file)
            layers.append({"mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip", "size": blob.stat().st_size, "digest": digest_of(blob)})
        self.ask("PUT", f"/v2/{repository}/manifests/1", json.dumps({
            "schemaVersion": 2, "mediaType": MANIFEST, "layers": layers,
            "config": {"mediaType": "application/vnd.docker.container.image.v1+json", "size": len(config), "digest": config_digest}}).encode(),
            Content_Type=MANIFEST)

    def stop(self):
        self.process.terminate()
        self.process.wait()


rows = []


def report(what: str, peer: float, ours: float, unit: str, ratio: float, bar: float):
    rows.append(dict(what=what, peer=peer, wherry=ours, unit=unit, ratio=ratio, bar=bar, met=ratio <= bar))
    print(f"{what:<52} {peer:9.2f} {ours:9.2f} {unit:<4} ratio {ratio:6.3f}  bar <= {bar:<5} {'met' if ratio <= bar else 'MISSED'}", flush=True)


def absolute(what: str, peer: float, ours: float, unit: str, bar: float):
    rows.append(dict(what=what, peer=peer, wherry=ours, unit=unit, bar=bar, met=ours <= bar))
    print(f"{what:<52} {peer:9.2f} {ours:9.2f} {unit:<4} {'':12}  bar <= {bar:<5} {'met' if ours <= bar else 'MISSED'}", flush=True)


def bench_pull(folder: pathlib.Path, dockerd: Daemon, wherryd: Daemon, options):
    tars = make_tars(folder, options.megabytes, options.layers)
    blobs = [compress(tar) for tar in tars]
    size, packed = (sum(path.stat().st_size for path in paths) / 1e6 for paths in (tars, blobs))
    (folder / "registry").mkdir()
    registry = Registry(folder / "registry")
    try:
        registry.put_image("bench", tars, blobs)
        for path in [*tars, *blobs]:
            path.unlink()
        print(f"image of {size:.0f} MB in {len(tars)} layers, {packed:.0f} MB compressed")
        reference = f"127.0.0.1:{PORT}/bench:1"
        figures = {dockerd: [], wherryd: []}
        for _ in range(options.rounds):
            for daemon in (dockerd, wherryd):
                os.sync()
                figures[daemon].append(daemon.measured("pull", "-q", reference))
                daemon.must("rmi", reference)
        d, w = ([statistics.median(one[i] for one in figures[daemon]) for i in range(3)] for daemon in (dockerd, wherryd))
        report("pull, wall", d[0], w[0], "s", statistics.median(b[0] / a[0] for a, b in zip(figures[dockerd], figures[wherryd])), 0.5)
        report("pull, processor time of the daemon", d[1], w[1], "s", w[1] / d[1], 0.5)
        absolute("pull, memory of the daemon and its children, PSS", d[2], max(one[2] for one in figures[wherryd]), "MiB", 64)
    finally:
        registry.stop()


def bench_import(folder: pathlib.Path, wherryd: Daemon, options):
    (archive,) = make_tars(folder, 300, 1)
    size = archive.stat().st_size / 1e6
    print(f"root file system of {size:.0f} MB as a plain tar")
    tar, ours = [], []
    for number in range(options.rounds):
        target = folder / f"extracted{number}"
        target.mkdir()
        os.sync()
        begun = time.perf_counter()
        busy = os.times()
        subprocess.run(["tar", "-x", "-f", str(archive), "-C", str(target)], check=True)
        now = os.times()
        tar.append((time.perf_counter() - begun, now.children_user + now.children_system - busy.children_user - busy.children_system))
        shutil.rmtree(target)
        os.sync()
        busy = os.times()
        wall, daemon, memory = wherryd.measured("import", str(archive), "imported:1", program=str(BIN / "wherry"))
        now = os.times()
        ours.append((wall, daemon + now.children_user + now.children_system - busy.children_user - busy.children_system, memory))
        wherryd.must("rmi", "imported:1")
    report("import, wall", statistics.median(t[0] for t in tar), statistics.median(o[0] for o in ours), "s",
           statistics.median(o[0] / t[0] for t, o in zip(tar, ours)), 1.3)
    print(f"{'import, processor time (both ends)':<52} {statistics.median(t[1] for t in tar):9.2f} {statistics.median(o[1] for o in ours):9.2f} s")
    absolute("import, memory of the daemon and its children, PSS", 0, max(o[2] for o in ours), "MiB", 64)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=600)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--only", default="pull,import")
    parser.add_argument("--json")
    options = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("run as root")
    if os.environ.get("WHERRY_BENCH_INSIDE") != "1":
        subprocess.run([ROOT / "scripts/lib/install-packages", "bench"], check=True)
        subprocess.run([ROOT / "scripts/lib/install-dockerd"], check=True)
        os.environ["WHERRY_BENCH_INSIDE"] = "1"
        os.execvp("unshare", ["unshare", "-n", "-m", "sh", "-c", 'ip link set lo up; exec "$@"', "sh", sys.executable, *sys.argv])
    folder = pathlib.Path(tempfile.mkdtemp(prefix="wherry-bench-", dir="/var/tmp"))
    daemons = []
    only = options.only.split(",")
    try:
        for name in ("d", "w"):
            (folder / name).mkdir()
        wherryd = Daemon("wherryd", folder / "w", [
            str(BIN / "wherryd"), "-H", f"unix://{folder}/w/docker.sock", "--data-root", f"{folder}/w/data", "--exec-root", f"{folder}/w/exec",
            "--pidfile", f"{folder}/w/pid", "--bridge", "none"])
        daemons.append(wherryd)
        print(f"{os.uname().release}, {os.cpu_count()} cores, {time.strftime('%F')}, load {os.getloadavg()[0]:.1f}, rounds {options.rounds}")
        print(f"{'':<52} {'peer':>9} {'wherry':>9}")
        if "pull" in only:
            dockerd = Daemon("dockerd", folder / "d", [
                "dockerd", "-H", f"unix://{folder}/d/docker.sock", "--data-root", f"{folder}/d/data", "--exec-root", f"{folder}/d/exec",
                "--pidfile", f"{folder}/d/pid", "--bridge", "none", "--iptables=false"])
            daemons.append(dockerd)
            bench_pull(folder, dockerd, wherryd, options)
        if "import" in only:
            bench_import(folder, wherryd, options)
    finally:
        for daemon in reversed(daemons):
            daemon.stop()
        subprocess.run(["sh", "-c", f"findmnt -rn -o TARGET | grep '^{folder}' | sort -r | xargs -r umount -l"], check=False)
        shutil.rmtree(folder, ignore_errors=True)
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(rows, indent=1))
    missed = [row["what"] for row in rows if not row["met"]]
    print(f"{len(rows) - len(missed)} of {len(rows)} bars met" + (f"; missed: {', '.join(missed)}" if missed else ""))


if __name__ == "__main__":
    sys.exit(main())
