"""A real S3 server for the contract suite: one-node Ceph (mon, osd, radosgw) on loopback, in memory.

Owns starting and stopping it. Needs Debian's packages radosgw, ceph-mon and ceph-osd; runs as root and as anyone else.
Every start is a fresh, empty cluster, ready in a few seconds.
"""

import base64
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

from tests.unit.graftwork.certificates import Authority

DNS_NAME = "s3.test"
"""Buckets are also served as `<bucket>.s3.test`, for whoever makes that name lead to 127.0.0.1."""
PROGRAMS = ("radosgw", "radosgw-admin", "ceph", "ceph-mon", "ceph-osd", "monmaptool")
_START_S = 60.0

_CONF = """\
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{mon_port}]
public network = 127.0.0.0/8
auth cluster required = none
auth service required = none
auth client required = none
ms bind ipv6 = false
ms bind msgr1 = false
run dir = {home}/run
admin socket = {home}/run/$name.asok
pid file =
log file = {home}/log/$name.log
log to stderr = false
err to stderr = true
crash dir = {home}/log
objecter tick interval = 0.25
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 1000
[mon.a]
mon data = {home}/mon
mon data avail warn = 2
mon data avail crit = 1
paxos propose interval = 0.05
paxos min wait = 0.02
[osd.0]
osd data = {home}/osd
osd objectstore = memstore
memstore device bytes = {capacity}
osd memory target = 1073741824
[client.rgw.a]
ms mon client mode = crc
rgw data = {home}/rgw
rgw frontends = beast endpoint=127.0.0.1:{port} ssl_endpoint=127.0.0.1:{tls_port} ssl_certificate={certificate} ssl_private_key={key} tcp_nodelay=1
rgw run sync thread = false
rgw enable usage log = false
rgw enable ops log = false
rgw thread pool size = 32
rgw num rados handles = 1
rgw dns name = {dns_name}
rgw crypt require ssl = false
rgw crypt s3 kms backend = testing
rgw crypt s3 kms encryption keys = {kms_key}={kms_secret}
"""


def missing_programs() -> list[str]:
    """Names what is not installed."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


class Rgw:
    """One running server.

    Args:
        home: an empty folder with a short path (admin sockets lie in it; their paths are limited to 107 bytes).
        capacity: bytes of memory that objects may take. A full Ceph does not refuse writes: it lets them hang.
    """

    def __init__(self, home: Path, capacity: int = 2 << 30) -> None:
        self._home, self._capacity = home, capacity
        self._port, self._mon_port, self._tls_port = _free_ports(3)
        self._env = {**os.environ, "CEPH_CONF": str(home / "ceph.conf")}
        self._processes: list[subprocess.Popen[bytes]] = []
        self.access_key = self.secret_key = ""
        self.endpoint = f"http://127.0.0.1:{self._port}"
        self.tls_endpoint = f"https://127.0.0.1:{self._tls_port}"
        self.authority = Authority(home, "authority")
        """Its certificate is what clients of `tls_endpoint` must trust."""
        self.kms_key = "graft-key"

    def start(self) -> None:
        """Raises RuntimeError with the log's end when it does not come up."""
        for folder in ("mon", "osd", "rgw", "run", "log"):
            (self._home / folder).mkdir()
        fsid = str(uuid.uuid4())
        pair = self.authority.issue("server")
        conf = _CONF.format(
            fsid=fsid,
            home=self._home,
            port=self._port,
            tls_port=self._tls_port,
            mon_port=self._mon_port,
            capacity=self._capacity,
            certificate=pair.certificate,
            key=pair.key,
            dns_name=DNS_NAME,
            kms_key=self.kms_key,
            kms_secret=base64.b64encode(secrets.token_bytes(32)).decode(),
        )
        (self._home / "ceph.conf").write_text(conf)
        monmap = str(self._home / "monmap")
        address = f"[v2:127.0.0.1:{self._mon_port}]"
        self._run("monmaptool", "--create", "--clobber", "--fsid", fsid, "--addv", "a", address, monmap)
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap)
        self._spawn("ceph-mon", "-f", "-i", "a")
        osd = str(uuid.uuid4())
        self._run("ceph", "osd", "new", osd)
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        self._spawn("ceph-osd", "-f", "-i", "0")
        # makes the pools too; waits by itself until the osd is up
        self.access_key, self.secret_key = self.add_user("test")
        self._spawn("radosgw", "-f", "-n", "client.rgw.a")
        self._await_answer()

    def add_user(self, name: str) -> tuple[str, str]:
        """Makes a user who may nothing yet; returns the access key and the secret key."""
        keys = f"{name}-key", secrets.token_hex(16)
        flags = (f"--uid={name}", f"--display-name={name}", f"--access-key={keys[0]}", f"--secret-key={keys[1]}")
        self._run("radosgw-admin", "-n", "client.rgw.a", "user", "create", *flags)
        return keys

    def stop(self) -> None:
        """The gateway first: it needs the osd to end cleanly. What does not end in five seconds is killed."""
        for process in reversed(self._processes):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()

    def _await_answer(self) -> None:
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            if self._processes[-1].poll() is not None:
                break
            try:
                urllib.request.urlopen(self.endpoint, timeout=1).close()
                return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.05)  # polls a process that offers nothing to wait on
        raise RuntimeError(f"radosgw did not answer: {self._log('radosgw')}")

    def _run(self, *command: str) -> None:
        done = subprocess.run(command, env=self._env, capture_output=True, timeout=_START_S, check=False)
        if done.returncode:
            raise RuntimeError(f"{command[0]} failed: {done.stderr.decode(errors='replace')[-2000:]}")

    def _spawn(self, *command: str) -> None:
        with (self._home / "log" / f"{command[0]}.out").open("ab") as log:
            self._processes.append(
                subprocess.Popen(
                    command, env=self._env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
            )

    def _log(self, name: str) -> str:
        return (self._home / "log" / f"{name}.out").read_text(errors="replace")[-2000:]


def _free_ports(count: int) -> list[int]:
    """Free ports below the range from which the kernel takes ports of outgoing connections.

    The server cannot bind port 0 and tell; a port in that range could be taken between this look and its start.
    """
    found: list[int] = []
    while len(found) < count:
        port = 20000 + secrets.randbelow(12000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found
