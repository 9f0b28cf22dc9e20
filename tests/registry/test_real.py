"""Debian's docker-registry, driven by the stock docker CLI and by wherry: what one writes the other reads."""

import base64
import io
import json
import os
import stat
import subprocess
import tarfile
import threading

import pytest
from hostile import ScriptedRegistry, layer_of, make_image, noise
from real import RealRegistry
from support.binaries import binary
from support.docker_clis import cli
from support.images import busybox_rootfs
from support.terminal import Terminal


@pytest.fixture(params=["wherry", "installed", "debian"], scope="module")
def use(request, daemon):
    """The verbs with wherry, the installed docker CLI and Debian's 20.10."""
    if request.param == "wherry":
        return daemon.wherry
    program = cli(request.param)
    return lambda *arguments, **keywords: daemon.docker(*arguments, program=program, **keywords)


@pytest.fixture
def named(daemon, real):
    """busybox under a name of its own in the registry."""
    counter = named.__dict__.setdefault("counter", iter(range(10_000)))
    name = f"{real.host}/everyday/bb{next(counter)}:1"
    daemon.wherry("tag", "busybox", name)
    yield name
    daemon.wherry("rmi", "-f", name, check=False)


def repository(real, name):
    return name.removeprefix(real.host + "/").rpartition(":")[0]


def test_push_and_pull(daemon, real, use, named):
    before = daemon.api.get(f"/images/{named}/json")
    output = use("push", named).stdout
    assert f"The push refers to repository [{named.rpartition(':')[0]}]" in output
    manifest = real.manifest(repository(real, named), "1")
    assert f"1: digest: {manifest['digest']} size: " in output
    assert f"{named.rpartition(':')[0]}@{manifest['digest']}" in daemon.api.get(f"/images/{named}/json")["RepoDigests"]
    output = use("rmi", named).stdout
    assert f"Untagged: {named}" in output
    assert f"Untagged: {named.rpartition(':')[0]}@{manifest['digest']}" in output
    output = use("pull", named).stdout
    assert f"1: Pulling from {repository(real, named)}" in output
    assert f"Digest: {manifest['digest']}" in output
    assert f"Status: Downloaded newer image for {named}" in output
    assert output.endswith(named + "\n")
    after = daemon.api.get(f"/images/{named}/json")
    assert (after["Id"], after["RootFS"], after["Config"]["Cmd"]) == (before["Id"], before["RootFS"], before["Config"]["Cmd"])
    assert f"Status: Image is up to date for {named}" in use("pull", named).stdout
    assert use("pull", "-q", named).stdout == named + "\n"


def test_second_push_and_mount_send_nothing(daemon, real, use, named):
    use("push", named)
    assert "Layer already exists" in use("push", named).stdout
    other = named.replace("/everyday/", "/elsewhere/")
    daemon.wherry("tag", "busybox", other)
    assert "Mounted from " in use("push", other).stdout or "Layer already exists" in use("push", other).stdout
    assert real.manifest(repository(real, other), "1")["digest"] == real.manifest(repository(real, named), "1")["digest"]
    daemon.wherry("rmi", other)


def test_by_digest(daemon, real, use, named):
    use("push", named)
    digest = real.manifest(repository(real, named), "1")["digest"]
    exact = named.rpartition(":")[0] + "@" + digest
    use("rmi", named)
    assert digest in use("pull", exact).stdout
    image = daemon.api.get(f"/images/{exact}/json")
    assert image["RepoDigests"] == [exact] or exact in image["RepoDigests"]
    assert named not in image["RepoTags"]
    assert exact in use("rmi", exact).stdout
    wrong = exact[:-4] + ("0000" if exact[-4:] != "0000" else "1111")
    result = use("pull", wrong, check=False)
    assert result.returncode != 0
    assert "not found" in result.stderr


def test_all_tags(daemon, real, use, named):
    base = named.rpartition(":")[0]
    for tag in ("1", "2", "three"):
        daemon.wherry("tag", "busybox", f"{base}:{tag}")
    use("push", "-a", base)
    assert real.tags(repository(real, named)) == ["1", "2", "three"]
    use("rmi", f"{base}:1", f"{base}:2", f"{base}:three")
    use("pull", "-a", base)
    assert sorted(tag for tag in daemon.api.get("/images/busybox/json")["RepoTags"] if tag.startswith(base)) == [f"{base}:1", f"{base}:2", f"{base}:three"]
    use("rmi", f"{base}:1", f"{base}:2", f"{base}:three")


def test_run_pulls_what_is_missing(daemon, real, use, named):
    use("push", named)
    use("rmi", named)
    result = use("run", "--rm", "--network", "none", named, "echo", "from", "afar")
    assert result.stdout == "from afar\n"
    assert f"Unable to find image '{named}' locally" in result.stderr
    assert "Status: Downloaded newer image" in result.stderr
    result = use("run", "--rm", "--network", "none", "--pull", "always", named, "true")
    assert "Image is up to date" in result.stderr + result.stdout
    use("rmi", named)
    result = use("run", "--rm", "--pull", "never", named, "true", check=False)
    assert result.returncode == 125
    assert "No such image" in result.stderr or "Unable to find image" in result.stderr


def test_what_is_not_there(daemon, real, use):
    result = use("pull", f"{real.host}/no/such:1", check=False)
    assert result.returncode == 1
    assert f"manifest for {real.host}/no/such:1 not found" in result.stderr
    result = use("push", f"{real.host}/no/such:1", check=False)
    assert result.returncode == 1
    assert f"An image does not exist locally with the tag: {real.host}/no/such" in result.stderr
    result = use("pull", "127.0.0.1:1/no/such:1", check=False)
    assert result.returncode == 1
    assert "refused" in result.stderr


def test_search(daemon, real, use, named):
    use("push", named)
    output = use("search", f"{real.host}/{repository(real, named).split('/')[-1]}").stdout
    assert named.rpartition(":")[0] in output
    result = use("search", "127.0.0.1:1/x", check=False)
    assert result.returncode == 1


def test_distribution_inspection(daemon, real, named):
    daemon.wherry("push", named)
    manifest = real.manifest(repository(real, named), "1")
    answer = daemon.api.get(f"/distribution/{named}/json")
    assert answer["Descriptor"]["digest"] == manifest["digest"]
    assert answer["Platforms"] == [{"architecture": "amd64", "os": "linux"}]
    assert daemon.api.call("GET", f"/distribution/{real.host}/no/such:1/json")[0] == 404


def test_progress_on_a_terminal(daemon, registry):
    """Bars that move while a slow registry sends."""
    from hostile import slowly

    image = registry.add_image("slow/one", "1", [layer_of({"file": noise(600_000)}), layer_of({"b": b"b"})])
    registry.on("/blobs/" + image.layers[0], slowly(400_000))
    with_terminal = Terminal([binary("wherry"), "pull", f"{registry.host}/slow/one:1"], daemon.client_environment(), columns=120)
    with_terminal.expect(b"Pulling fs layer")
    seen = with_terminal.expect(b"Pull complete", timeout=30) + with_terminal.expect(b"Status: Downloaded newer image", timeout=30)
    assert with_terminal.process.wait(20) == 0
    assert b"Downloading [" in seen
    assert b"=>" in seen
    assert b"\x1b[" in seen
    daemon.wherry("rmi", f"{registry.host}/slow/one:1")


# Foreign writers and readers


def busybox_with(content: bytes) -> bytes:
    raw = io.BytesIO(busybox_rootfs())
    with tarfile.open(fileobj=raw, mode="a") as tar:
        member = tarfile.TarInfo("which")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    return raw.getvalue()


def skopeo(*arguments):
    import shutil

    if shutil.which("skopeo") is None:
        pytest.skip("skopeo is not installed")
    return subprocess.run(["skopeo", *arguments], capture_output=True, text=True, check=True, timeout=120).stdout


def test_skopeo_reads_what_we_push(daemon, real, named, tmp_path):
    daemon.wherry("push", named)
    skopeo("copy", "--src-tls-verify=false", f"docker://{named}", f"oci:{tmp_path}/layout:x")
    inspected = json.loads(skopeo("inspect", "--tls-verify=false", f"docker://{named}"))
    assert inspected["Architecture"] == "amd64"
    assert len(inspected["Layers"]) == 1


@pytest.mark.parametrize("arguments", [[], ["--format", "oci", "--dest-compress-format", "zstd"], ["--format", "oci"], ["--format", "v2s2"]])
def test_we_read_what_skopeo_pushes(daemon, real, tmp_path, arguments):
    # A layer of its own: of one that is known already, the registry's word that a blob gives it would not be taken.
    daemon.wherry("import", "-", "foreign:1", input=busybox_with(repr(arguments).encode()), text=False)
    daemon.wherry("save", "-o", str(tmp_path / "image.tar"), "foreign:1")
    daemon.wherry("rmi", "foreign:1")
    name = f"{real.host}/skopeo/{len(arguments)}{'zstd' if 'zstd' in arguments else ''}:1"
    skopeo("copy", "--dest-tls-verify=false", *arguments, f"docker-archive:{tmp_path}/image.tar", f"docker://{name}")
    daemon.wherry("pull", name)
    assert daemon.wherry("run", "--rm", "--network", "none", name, "/bin/busybox", "echo", "read").stdout == "read\n"
    assert daemon.wherry("image", "verify", name).stdout == f"{name}: intact\n"
    # And sent on as it came.
    daemon.wherry("tag", name, f"{real.host}/onwards/{len(arguments)}:1")
    daemon.wherry("push", f"{real.host}/onwards/{len(arguments)}:1")
    onwards = real.manifest(f"onwards/{len(arguments)}", "1")
    came = real.manifest(repository(real, name), "1")
    assert [layer["digest"] for layer in onwards["layers"]] == [layer["digest"] for layer in came["layers"]]
    daemon.wherry("rmi", name, f"{real.host}/onwards/{len(arguments)}:1")


@pytest.mark.parametrize("packing", ["gzip", "zstd", "none"])
def test_every_packing(daemon, registry, packing):
    tars = [busybox_rootfs(), layer_of({"etc/motd": b"hello", "dev/.wh.null": b""}), layer_of({"etc/.wh.motd": b""})]
    image = registry.add_image("all/packings", packing, tars, packing=packing)
    name = f"{registry.host}/all/packings:{packing}"
    daemon.wherry("pull", name)
    view = daemon.api.get(f"/images/{name}/json")
    assert view["Id"] == image.id
    assert view["RootFS"]["Layers"] == image.diff_ids
    result = daemon.wherry("run", "--rm", "--network", "none", name, "ls", "/etc/motd", check=False)
    assert result.returncode == 1
    daemon.wherry("rmi", name)


def test_platforms(daemon, registry):
    host = make_image([layer_of({"which": b"amd64"})])
    other = make_image([layer_of({"which": b"arm64"})], architecture="arm64")
    digest = registry.add_list("many/platforms", "1", [("linux/arm64/v8", other), ("linux/amd64", host)])
    name = f"{registry.host}/many/platforms:1"
    daemon.wherry("pull", name)
    assert daemon.api.get(f"/images/{name}/json")["Id"] == host.id
    assert daemon.api.get(f"/images/{name}/json")["RepoDigests"] == [f"{registry.host}/many/platforms@{digest}"]
    daemon.wherry("pull", "--platform", "linux/arm64", name)
    assert daemon.api.get(f"/images/{name}/json")["Id"] == other.id
    assert daemon.api.get(f"/images/{name}/json")["Architecture"] == "arm64"
    result = daemon.wherry("pull", "--platform", "linux/s390x", name, check=False)
    assert "no matching manifest for linux/s390x in the manifest list entries" in result.stderr
    result = daemon.wherry("pull", "--platform", "banana", name, check=False)
    assert result.returncode == 1
    registry.add("many/platforms", "single", host)
    result = daemon.wherry("pull", "--platform", "linux/arm64", f"{registry.host}/many/platforms:single", check=False)
    assert "does not match the specified platform: wanted linux/arm64, actual: linux/amd64" in result.stderr
    assert {tuple(p.items()) for p in daemon.api.get(f"/distribution/{name}/json")["Platforms"]} == {
        (("architecture", "arm64"), ("os", "linux"), ("variant", "v8")), (("architecture", "amd64"), ("os", "linux"))}
    for image in daemon.api.get("/images/json"):
        if any("many/platforms" in one for one in (image["RepoTags"] or []) + (image["RepoDigests"] or [])):
            daemon.wherry("rmi", "-f", image["Id"])


# Accounts


@pytest.fixture(params=["basic", "token"])
def guarded(request):
    users = {"me": "pass:word"}
    with ScriptedRegistry(basic_users=users if request.param == "basic" else None, token_users=users if request.param == "token" else None) as registry:
        yield registry


def config_file(daemon):
    return daemon.root / "docker-config/config.json"


def test_login_and_what_it_opens(daemon, guarded, use):
    image = guarded.add_image("private/x", "1", [layer_of({"x": b"y"})])
    name = f"{guarded.host}/private/x:1"
    assert use("pull", name, check=False).returncode == 1
    result = use("login", "-u", "me", "--password-stdin", guarded.host, input="wrong", check=False)
    assert result.returncode == 1
    assert "unauthorized" in result.stderr
    assert guarded.host not in (json.loads(config_file(daemon).read_text()).get("auths", {}) if config_file(daemon).exists() else {})
    result = use("login", "-u", "me", "--password-stdin", guarded.host, input="pass:word\n")
    assert "Login Succeeded" in result.stdout
    kept = json.loads(config_file(daemon).read_text())["auths"][guarded.host]
    assert base64.b64decode(kept["auth"]).decode() == "me:pass:word"
    assert stat.S_IMODE(os.stat(config_file(daemon)).st_mode) == 0o600
    use("pull", name)
    assert daemon.api.get(f"/images/{name}/json")["Id"] == image.id
    daemon.wherry("tag", name, f"{guarded.host}/private/y:1")
    use("push", f"{guarded.host}/private/y:1")
    assert ("private/y", "1") in guarded.manifests
    assert "Login Succeeded" in use("login", guarded.host).stdout
    use("rmi", name, f"{guarded.host}/private/y:1")
    assert use("run", "--rm", "--network", "none", "--entrypoint", "/none", name, check=False).returncode in (126, 127)  # pulled, if of no use
    use("logout", guarded.host)
    assert guarded.host not in json.loads(config_file(daemon).read_text()).get("auths", {})
    daemon.remove_all()
    daemon.wherry("rmi", name)
    assert use("pull", name, check=False).returncode == 1


def test_a_token_that_runs_out_during_a_push(daemon):
    with ScriptedRegistry(token_users={"me": "secret"}) as registry:
        def expire(handler, held):
            held.tokens.clear()
            return False

        daemon.wherry("login", "-u", "me", "-p", "secret", registry.host)
        name = f"{registry.host}/p/q:1"
        daemon.wherry("tag", "busybox", name)
        registry.on("/blobs/uploads/", expire, times=1, method="PUT")
        registry.on("/manifests/", expire, times=1, method="PUT")
        daemon.wherry("push", name)
        assert ("p/q", "1") in registry.manifests
        daemon.wherry("rmi", name)
        daemon.wherry("logout", registry.host)


def test_credential_helpers(daemon, tmp_path):
    """docker-credential-NAME: get, store and erase, by the protocol of the helpers there are."""
    helper = tmp_path / "docker-credential-test"
    helper.write_text(f"""#!/usr/bin/python3
import json, os, sys
path = "{tmp_path}/kept.json"
kept = json.load(open(path)) if os.path.exists(path) else {{}}
text = sys.stdin.read().strip()
open("{tmp_path}/verbs", "a").write(sys.argv[1] + "\\n")
if sys.argv[1] == "store":
    entry = json.loads(text); kept[entry["ServerURL"]] = entry
elif sys.argv[1] == "erase":
    kept.pop(text, None)
elif sys.argv[1] == "get":
    if text not in kept:
        print("credentials not found in native keychain"); sys.exit(1)
    print(json.dumps(kept[text]))
json.dump(kept, open(path, "w"))
""")
    helper.chmod(0o755)
    folder = tmp_path / "config"
    folder.mkdir()
    with ScriptedRegistry(basic_users={"me": "secret"}) as registry:
        registry.add_image("x/y", "1", [layer_of({"x": b"y"})])
        (folder / "config.json").write_text(json.dumps({"credHelpers": {registry.host: "test"}, "kept": {"as": "it was"}}))
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "DOCKER_CONFIG": str(folder)}
        result = daemon.wherry("pull", f"{registry.host}/x/y:1", env=environment, check=False)
        assert result.returncode == 1
        result = daemon.wherry("login", "-u", "me", "--password-stdin", registry.host, input="secret", env=environment)
        assert "unencrypted" not in result.stderr
        assert json.loads((tmp_path / "kept.json").read_text())[registry.host]["Secret"] == "secret"
        assert "secret" not in (folder / "config.json").read_text()
        daemon.wherry("pull", f"{registry.host}/x/y:1", env=environment)
        daemon.wherry("logout", registry.host, env=environment)
        assert json.loads((tmp_path / "kept.json").read_text()) == {}
        assert json.loads((folder / "config.json").read_text())["kept"] == {"as": "it was"}
        assert {"get", "store", "erase"} <= set((tmp_path / "verbs").read_text().split())
        helper.write_text("#!/bin/sh\necho the keychain is locked\nexit 1\n")
        result = daemon.wherry("pull", f"{registry.host}/x/y:1", env=environment, check=False)
        assert "the keychain is locked" in result.stderr
    daemon.wherry("rmi", f"{registry.host}/x/y:1")


def test_the_real_registry_with_passwords(daemon):
    with RealRegistry(users={"me": "secret"}) as registry:
        name = f"{registry.host}/guarded/bb:1"
        daemon.wherry("tag", "busybox", name)
        result = daemon.wherry("push", name, check=False)
        assert result.returncode == 1
        assert "unauthorized" in result.stderr
        assert daemon.wherry("login", "-u", "me", "-p", "secret", registry.host).stdout.endswith("Login Succeeded\n")
        daemon.wherry("push", name)
        daemon.wherry("rmi", name)
        daemon.wherry("pull", name)
        daemon.wherry("logout", registry.host)
        daemon.wherry("rmi", name)


# TLS, mirrors


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate of an authority of our own for registry.test, localhost and 127.0.0.1."""
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=60)

    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=authority", "-days", "30")
    openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=registry")
    (folder / "extensions").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    openssl("x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-out", "server.crt", "-days", "30", "-extfile", "extensions")
    return folder


def test_tls(make_daemon, certificate, tmp_path):
    """On loopback a certificate nobody vouches for will do; with an authority named for the host it must hold."""
    with RealRegistry(tls=(str(certificate / "server.crt"), str(certificate / "server.key"))) as registry:
        folder = tmp_path / "certs.d"
        daemon = make_daemon("--registry-certs", str(folder), network=False)
        daemon.import_busybox()
        name = f"{registry.host}/tls/bb:1"
        daemon.wherry("tag", "busybox", name)
        daemon.wherry("push", name)
        (folder / registry.host).mkdir(parents=True)
        (folder / registry.host / "authority.crt").write_bytes((certificate / "ca.crt").read_bytes())
        daemon.wherry("pull", name)
        other = tmp_path / "other"
        other.mkdir()
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", str(other / "k"), "-out",
                        str(folder / registry.host / "authority.crt"), "-subj", "/CN=another", "-days", "30"], check=True, capture_output=True, timeout=60)
        result = daemon.wherry("pull", name, check=False)
        assert result.returncode == 1
        assert "TLS" in result.stderr


def test_mirrors(make_daemon, registry):
    """A mirror is asked first, gets no credentials, and what it lacks or spoils comes from the registry."""
    with ScriptedRegistry(basic_users={"me": "secret"}) as origin, ScriptedRegistry() as spoiling:
        daemon = make_daemon("--registry-mirror", f"{origin.host}=http://{spoiling.host}", "--registry-mirror", f"{origin.host}=http://{registry.host}/",
                             "--max-download-attempts", "2", network=False)
        both = make_image([layer_of({"x": b"both"}), layer_of({"z": noise(50_000)})])
        for one in (origin, registry, spoiling):
            one.add("m/both", "1", both)
        spoiling.blobs[both.layers[1]] = b"spoilt" + both.blobs[1][6:]
        alone = origin.add_image("m/alone", "1", [layer_of({"x": b"alone"})])
        daemon.wherry("login", "-u", "me", "-p", "secret", origin.host)
        daemon.wherry("pull", f"{origin.host}/m/both:1")
        assert registry.seen("/blobs/" + both.layers[1])
        assert not origin.seen("/blobs/")
        assert not any("Authorization" in headers for one in (registry, spoiling) for _, _, headers in one.seen(""))
        daemon.wherry("pull", f"{origin.host}/m/alone:1")
        assert origin.seen("/blobs/" + alone.layers[0])
        info = daemon.api.get("/info")
        assert "127.0.0.0/8" in info["RegistryConfig"]["InsecureRegistryCIDRs"]
    result = subprocess.run([binary("wherryd"), "--validate", "--registry-mirror", "nonsense"], capture_output=True, text=True, timeout=30, check=False)
    assert result.returncode == 1
    assert "invalid mirror" in result.stderr


def test_configuration_file(tmp_path):
    path = tmp_path / "daemon.json"
    path.write_text(json.dumps({"insecure-registries": ["10.0.0.0/8", "old.example:5000"], "registry-mirrors": ["https://mirror.example"], "max-concurrent-downloads": 6}))
    result = subprocess.run([binary("wherryd"), "--validate", "--config-file", str(path)], capture_output=True, text=True, timeout=30, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    path.write_text(json.dumps({"insecure-registries": ["https://old.example"]}))
    result = subprocess.run([binary("wherryd"), "--validate", "--config-file", str(path)], capture_output=True, text=True, timeout=30, check=False)
    assert result.returncode == 1


def test_pulls_do_not_keep_containers_waiting(daemon, registry):
    """Eight pulls from registries that say nothing, and a container starts as ever."""
    from hostile import silence

    registry.on("/manifests/", silence)
    processes = [subprocess.Popen([binary("wherry"), "pull", f"{registry.host}/a/b{number}:1"], env=daemon.client_environment(), stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL) for number in range(8)]
    registry.wait_for_request("/a/b7/")
    done = threading.Event()
    threading.Thread(target=lambda: (daemon.wherry("run", "--rm", "--network", "none", "busybox", "true"), done.set())).start()
    assert done.wait(20), "a container waited for pulls"
    for process in processes:
        process.terminate()
        process.wait(10)
