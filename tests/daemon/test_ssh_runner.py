"""The helper over SSH, with a real sshd: who is let in, who is believed, and what a broken connection means."""

import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from portal.errors import SchedulerError
from portal.jobs.node_files import current_helper, install_node_files
from portal.schedulers.commands import NotReachedError
from portal.schedulers.helper import Helper
from portal.schedulers.ssh import SshConnection, SshRunner, SshTarget
from tests.sshd import USER, Sshd, make_key
from tests.waiting import wait_until
from tests.wrapper_attempts import is_alive

pytestmark = pytest.mark.daemon


@contextmanager
def running(target: SshTarget, most_bytes: int = 100_000) -> Iterator[SshRunner]:
    runner = SshRunner(SshConnection(target), "helper", most_bytes)
    try:
        yield runner
    finally:
        runner.close()


def not_reached(target: SshTarget) -> str:
    """Why it is not reached, for the log; the visitor's sentence tells nothing of it."""
    with running(target) as runner, pytest.raises(NotReachedError) as caught:
        runner.run(b"x", 10)
    assert caught.value.visitor_message == "The cluster cannot be reached at the moment."
    assert "\n" not in caught.value.log_detail
    return caught.value.log_detail


def test_the_forced_command_runs_whatever_was_asked_and_one_connection_serves_all(sshd: Sshd) -> None:
    sshd.force('echo "$SSH_ORIGINAL_COMMAND"; cat')
    with running(sshd.target) as runner:
        for number in range(5):
            assert runner.run(b"%d" % number, 10) == b"helper\n%d" % number
    assert sshd.logins() == 1


def test_without_nodelay_each_call_would_wait_for_an_acknowledgement(sshd: Sshd) -> None:
    with running(sshd.target) as runner:
        runner.run(b"x", 10)
        transport = runner._connection.open_channel().get_transport()
        assert transport is not None
        assert isinstance(transport.sock, socket.socket)
        assert transport.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


def test_an_rsa_key_is_good_enough(sshd: Sshd, tmp_path: Path) -> None:
    key = make_key(tmp_path / "rsa_key", kind="rsa")
    (tmp_path / "authorized_keys").write_text(key.with_suffix(".pub").read_text())
    with running(replace(sshd.target, key_file=key)) as runner, pytest.raises(NotReachedError, match="127"):
        runner.run(b"", 10)  # no forced command here, and no program called `helper`


def test_a_host_that_nobody_knows_is_not_believed(sshd: Sshd) -> None:
    sshd.known_hosts.write_text("# nobody\n")
    assert f"127.0.0.1:{sshd.port} has no host key in {sshd.known_hosts}" in not_reached(sshd.target)
    assert sshd.known_hosts.read_text() == "# nobody\n"


def test_a_host_whose_key_has_changed_is_not_believed(sshd: Sshd, tmp_path: Path) -> None:
    sshd.trust(make_key(tmp_path / "another_host_key"))
    assert "shows another host key" in not_reached(sshd.target)
    assert sshd.logins() == 0


def test_a_key_that_is_not_accepted(sshd: Sshd, tmp_path: Path) -> None:
    stranger = make_key(tmp_path / "stranger")
    detail = not_reached(replace(sshd.target, key_file=stranger))
    assert f"does not let {USER} in with {stranger}" in detail


def test_a_key_with_a_passphrase_and_one_that_is_none(sshd: Sshd, tmp_path: Path) -> None:
    locked = make_key(tmp_path / "locked", passphrase="secret words")
    old = tmp_path / "old"
    make_pem = ["ssh-keygen", "-q", "-t", "rsa", "-m", "PEM", "-N", "secret words", "-f", str(old)]
    subprocess.run(make_pem, check=True, stdin=subprocess.DEVNULL)
    for key in (locked, old):
        assert f"key_file: {key}: has a passphrase" in not_reached(replace(sshd.target, key_file=key))
    garbage = tmp_path / "garbage"
    garbage.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0\n-----END OPENSSH PRIVATE KEY-----\n")
    detail = not_reached(replace(sshd.target, key_file=garbage))
    assert f"key_file: {garbage}: is not a private key" in detail
    assert "c2VjcmV0" not in detail


def test_missing_files_are_named(sshd: Sshd, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    assert f"key_file: {nowhere}: No such file" in not_reached(replace(sshd.target, key_file=nowhere))
    detail = not_reached(replace(sshd.target, known_hosts_file=nowhere))
    assert f"known_hosts_file: {nowhere}: No such file" in detail


def test_a_port_without_a_server_and_a_host_without_a_name(sshd: Sshd) -> None:
    sshd.stop()
    assert "cannot be connected to: Connection refused" in not_reached(sshd.target)
    assert "nowhere.invalid:" in not_reached(replace(sshd.target, host="nowhere.invalid"))


@pytest.mark.parametrize("greeting", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_a_server_that_does_not_speak_ssh_is_not_waited_for(sshd: Sshd, greeting: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            connection, _ = listener.accept()
            connection.sendall(greeting)
            with connection:
                connection.settimeout(10)
                while connection.recv(1000):
                    pass

        thread = threading.Thread(target=greet)
        thread.start()
        began = time.monotonic()
        target = replace(sshd.target, port=listener.getsockname()[1], connect_timeout_seconds=1)
        assert "SSH" in not_reached(target)
        assert time.monotonic() - began < 8
        thread.join()


def test_a_connection_cut_in_the_middle_is_no_answer_and_the_next_call_has_another(sshd: Sshd) -> None:
    sshd.force("cat >/dev/null; echo half; kill -9 $PPID; sleep 5")
    with running(sshd.target) as runner:
        with pytest.raises(SchedulerError) as caught:
            runner.run(b"x", 10)
        assert not isinstance(caught.value, NotReachedError)
        assert "the SSH connection broke" in caught.value.log_detail
        sshd.force("cat")
        assert runner.run(b"whole", 10) == b"whole"
    assert sshd.logins() == 2


def test_a_server_that_was_started_again_is_no_error(sshd: Sshd) -> None:
    sshd.force("cat; echo $PPID")
    with running(sshd.target) as runner:
        session = int(runner.run(b"", 10))
        os.kill(session, signal.SIGKILL)
        wait_until(lambda: not is_alive(session), 5, "the end of the connection")
        sshd.stop()
        sshd.start()
        assert runner.run(b"again\n", 10).startswith(b"again\n")
    assert sshd.logins() == 2


def test_a_command_that_hangs_is_left_in_time(sshd: Sshd) -> None:
    sshd.force("echo half; sleep 30")
    with running(sshd.target) as runner:
        began = time.monotonic()
        with pytest.raises(SchedulerError) as caught:
            runner.run(b"x", 1)
        assert time.monotonic() - began < 5
        assert caught.value.log_detail == "no answer over SSH in 1 s"
        assert not isinstance(caught.value, NotReachedError)
        sshd.force("cat")
        assert runner.run(b"whole", 10) == b"whole"


def test_a_server_that_stands_still_is_left_in_time(sshd: Sshd) -> None:
    """Some of paramiko's calls wait for ever."""
    sshd.force("cat; echo $PPID")
    with running(replace(sshd.target, connect_timeout_seconds=1)) as runner:
        session = int(runner.run(b"", 10))
        os.kill(session, signal.SIGSTOP)
        os.kill(sshd.pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            with pytest.raises(SchedulerError):
                runner.run(b"x", 2)
            assert time.monotonic() - began < 10
        finally:
            os.kill(session, signal.SIGCONT)
            os.kill(sshd.pid, signal.SIGCONT)
        assert runner.run(b"on\n", 10).startswith(b"on\n")


def test_output_without_end_is_no_answer(sshd: Sshd) -> None:
    sshd.force("yes")
    with running(sshd.target) as runner, pytest.raises(SchedulerError) as caught:
        runner.run(b"", 10)
    assert "more than 100000 bytes" in caught.value.log_detail


def test_a_helper_that_is_not_there_did_certainly_nothing_and_one_that_broke_perhaps(sshd: Sshd) -> None:
    with running(sshd.target) as runner:
        sshd.force("echo python3: not found >&2; exit 127")
        with pytest.raises(NotReachedError, match="python3: not found"):
            runner.run(b"", 10)
        sshd.force("echo Traceback >&2; exit 1")
        with pytest.raises(SchedulerError, match="Traceback") as caught:
            runner.run(b"", 10)
        assert not isinstance(caught.value, NotReachedError)
    assert sshd.logins() == 1


def test_many_threads_share_the_connection(sshd: Sshd) -> None:
    with running(sshd.target) as runner, ThreadPoolExecutor(8) as pool:
        texts = [b"%d" % number * 1000 for number in range(24)]
        assert list(pool.map(lambda text: runner.run(text, 20), texts)) == texts
    assert sshd.logins() == 1


def test_the_real_helper_behind_a_restricted_key(sshd: Sshd, tmp_path: Path) -> None:
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    install_node_files(jobs, [])
    commands = tmp_path / "commands"
    commands.mkdir()
    (commands / "squeue").write_text('#!/bin/sh\necho "$TZ $*"\n')
    (commands / "squeue").chmod(0o755)
    sshd.force(f"PATH={commands}:$PATH exec /usr/bin/python3 -I {current_helper(jobs)}")
    with running(sshd.target) as runner:
        [good, bad] = Helper(runner, jobs, 5).call([["squeue", "--me"], ["sh", "-c", "id"]])
        assert (good.stdout, bad.failure) == ("UTC --me\n", "refused")
        with pytest.raises(NotReachedError, match="not the jobs folder"):
            Helper(runner, tmp_path, 5).call([["squeue", "--me"]])


def test_what_a_login_script_prints_is_no_answer(sshd: Sshd, tmp_path: Path) -> None:
    answer = json.dumps({"version": 1, "id": "x", "answers": []})
    for script in ("echo Welcome!", f"echo '{answer}'", f"printf %s '{answer[:-3]}'"):
        sshd.force(f"cat >/dev/null; {script}")
        with running(sshd.target) as runner, pytest.raises(SchedulerError, match="not a whole answer") as caught:
            Helper(runner, tmp_path, 5).call([])
        assert not isinstance(caught.value, NotReachedError)
