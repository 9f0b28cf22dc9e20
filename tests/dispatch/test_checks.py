"""Health checks of a confined server: commands in a process of their own, as the server's user; names and TLS through the filter."""

import os
import pathlib
import pwd
import subprocess
import sys

import pytest

from support.dns import run
from test_dispatch import Server, Site, free_port, wait_for


def status_of(pid) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)


def children_of(pid) -> dict[str, int]:
    return {pathlib.Path(f"/proc/{child}/comm").read_text().strip(): int(child)
            for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


class Confined(Server):
    """Changed to another user and into another root, where it can be."""

    def write(self, steering):
        super().write(steering)
        if os.geteuid() == 0:
            path = self.folder / "dns.conf"
            path.write_text(path.read_text().replace("server {", f"server {{ user nobody; chroot {self.folder}; ", 1))
            for part in (self.folder, *self.folder.parents):
                if part != pathlib.Path("/") and part.stat().st_uid == os.geteuid() and not part.stat().st_mode & 1:
                    part.chmod(0o755)


@pytest.fixture
def confined(tmp_path):
    started = []

    def make(steering):
        started.append(Confined(tmp_path, steering).start())
        return started[-1]

    yield make
    for one in started:
        one.stop()


def test_commands_run_beside_a_confined_server(confined, tmp_path):
    said = pathlib.Path(f"/tmp/wherry-check-{os.getpid()}")
    check = f'check command /bin/sh -c "id -u >{said}.new; mv {said}.new {said}; test ! -e {said}.down" {{ every 0.1; timeout 5; rise 1; fall 1 }}'
    steering = f"site virginia {{ address 192.0.2.1; priority 1\n {check}\n }}\nsite oregon {{ address 192.0.2.2; priority 2 }}\nname www.example.test {{ policy failover; ttl 1 }}\n"
    try:
        dns = confined(steering)
        server = status_of(dns.process.pid)
        assert server["Seccomp"] == "2" and server["NoNewPrivs"] == "1"
        helper = status_of(children_of(dns.process.pid)["dns-checks"])
        wait_for("the command", said.exists)
        wanted = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else os.getuid()
        assert said.read_text().strip() == str(wanted)
        assert helper["Uid"].split() == [str(wanted)] * 4 and int(helper["CapEff"], 16) == 0
        assert dns.answers("198.51.100.0/24") == ["192.0.2.1"]
        pathlib.Path(f"{said}.down").touch()
        wait_for("the change", lambda: dns.answers("198.51.100.0/24") == ["192.0.2.2"])
        assert dns.get("/v1/status")["sites"][0]["checks"][0]["problem"] == "exit code 1"
        pathlib.Path(f"{said}.down").unlink()
        wait_for("the way back", lambda: dns.answers("198.51.100.0/24") == ["192.0.2.1"])
        # A reload brings another command.
        dns.write(steering.replace("test ! -e", "test -e"))
        dns.reload()
        wait_for("the other command", lambda: dns.answers("198.51.100.0/24") == ["192.0.2.2"])
        # What runs ends with the server, however that ends.
        helper_pid = children_of(dns.process.pid)["dns-checks"]
        dns.stop()
        wait_for("the end", lambda: not os.path.exists(f"/proc/{helper_pid}") or status_of(helper_pid)["State"].startswith("Z"))
    finally:
        for path in (said, pathlib.Path(f"{said}.down"), pathlib.Path(f"{said}.new")):
            path.unlink(missing_ok=True)


TLS_SITE = ("import http.server, ssl, sys\ns = http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), http.server.SimpleHTTPRequestHandler)\n"
            "c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); c.load_cert_chain(sys.argv[2], sys.argv[3])\ns.socket = c.wrap_socket(s.socket, server_side=True)\ns.serve_forever()")


def test_names_and_tls_pass_the_filter(tmp_path):
    web = Site().start()
    tls_port = free_port()
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=localhost",
        "-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem")
    tls = subprocess.Popen([sys.executable, "-c", TLS_SITE, str(tls_port), str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")],
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/tmp")
    every = "{ every 0.1; timeout 5; rise 1; fall 1 }"
    dns = Server(tmp_path, f"site oregon {{ address 192.0.2.2 }}\nsite virginia {{ address 192.0.2.1\n check http http://localhost:{web.port}/ {every}\n check http https://localhost:{tls_port}/ {every}\n"
                           f" check tcp 127.0.0.1:{tls_port} {every}\n }}\nname www.example.test {{ policy failover }}\n").start()
    try:
        assert status_of(dns.process.pid)["Seccomp"] == "2"
        # The certificate is nobody's: seen as that, TLS itself works.
        def right():
            by_name, by_tls, by_tcp = dns.get("/v1/status")["sites"][1]["checks"]
            return by_name["up"] and not by_name["problem"] and by_tcp["up"] and not by_tcp["problem"] and not by_tls["up"] and "certificate" in by_tls["problem"]
        wait_for("the checks", right)
    finally:
        dns.stop()
        web.stop()
        tls.kill()
        tls.wait()
