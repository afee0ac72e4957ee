"""Watching runs: the live page and who may ask for it, and the curves in the terminal."""

import json
import socket
import struct
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from degrade import watch
from degrade.cli import look
from degrade.errors import ConfigError
from degrade.runs import RunRecord, find_records
from tests.conftest import Cli
from tests.records import finished


@pytest.fixture
def training(tmp_path: Path) -> Iterator[RunRecord]:
    """A run that is being trained: its lock is held."""
    record = finished(tmp_path, "plain-20", 0, 0.02, 0.1, status="running", rows=4)
    with record.lock():
        yield record


@pytest.fixture
def address(training: RunRecord, tmp_path: Path) -> Iterator[str]:
    """Where a page of the records below tmp_path is served."""
    with watch.server(watch.find(partial(find_records, [tmp_path])), 0, every=2.0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def asked(address: str, **headers: str) -> str:
    with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=20) as answer:
        text: str = answer.read().decode()
        return text


def test_the_page_follows_the_records(training: RunRecord, address: str, tmp_path: Path) -> None:
    first = json.loads(asked(f"{address}/now"))
    assert first["running"] == ["plain-20 seed 0: 100%  training error 3.00% running, 2.00% clean  test error 10.00%"]
    text = asked(f"{address}/")
    assert f'"stamp": {json.dumps(first["stamp"])}' in text.replace("\\u0026", "&")
    assert '"seconds": 2.0' in text
    assert "connect-src 'self'" in text
    assert json.loads(asked(f"{address}/now"))["stamp"] == first["stamp"]
    rows = training.path / "metrics.jsonl"
    rows.write_text(rows.read_text() + rows.read_text().splitlines()[-1] + "\n")
    finished(tmp_path, "plain-56", 0, 0.05, 0.2)
    second = json.loads(asked(f"{address}/now"))
    assert second["stamp"] != first["stamp"]
    assert "plain-56" in asked(f"{address}/")


def test_only_this_machine_may_ask_and_only_for_what_there_is(address: str) -> None:
    with pytest.raises(urllib.error.HTTPError, match="404"):
        asked(f"{address}/", Host="elsewhere.example:80")  # a page elsewhere that names this machine as its own
    with pytest.raises(urllib.error.HTTPError, match="404"):
        asked(f"{address}/../pyproject.toml")


def test_a_page_that_is_closed_before_it_is_sent_is_no_error(
    address: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    closed, sent = threading.Event(), threading.Event()

    def late(_: watch._Shown) -> str:
        closed.wait(20)
        sent.set()
        return "x" * 5_000_000

    monkeypatch.setattr(watch._Shown, "page", late)
    with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # it is reset, not ended
        client.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    closed.set()
    assert sent.wait(20)
    assert "stamp" in asked(f"{address}/now")  # asked after the page, which holds the server's lock
    assert capfd.readouterr().err == ""


def test_a_page_that_is_not_live_asks_nobody(cli: Cli, training: RunRecord, tmp_path: Path) -> None:
    assert cli("report", str(tmp_path), "-o", "page.html").code == 0
    text = (tmp_path / "page.html").read_text()
    assert "connect-src" not in text
    assert 'fetch("/now")' not in text


def test_the_page_is_opened_and_served_until_ctrl_c(
    cli: Cli, training: RunRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr("http.server.ThreadingHTTPServer.serve_forever", interrupted)
    done = cli("watch", "--port", "0", "--open", str(tmp_path))
    assert done.code == 0
    (address,) = opened
    assert done.out == f"{address} shows the runs as they grow; Ctrl-C ends it\n"
    assert cli("watch", "--port", "0", str(tmp_path)).code == 0
    assert opened == [address]


def test_what_cannot_be_watched_is_one_line(cli: Cli, training: RunRecord) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--port {port}: .*; take another, or 0"):
            watch.server(list, port, every=1.0)
    missing = cli("watch", "nowhere")
    assert (missing.code, missing.err.count("\n")) == (2, 1)


def test_a_damaged_record_keeps_no_other_from_being_shown(training: RunRecord, address: str, tmp_path: Path) -> None:
    other = finished(tmp_path, "plain-56", 0, 0.02, 0.1)
    (other.path / "config.yaml").write_text("model: [")
    assert "plain-20" in asked(f"{address}/")
    (training.path / "config.yaml").write_text("model: [")
    (training.path / "metrics.jsonl").write_text("")
    with pytest.raises(urllib.error.HTTPError, match="503"):
        asked(f"{address}/")


def test_a_moment_in_which_records_cannot_be_read_shows_them_as_they_were(training: RunRecord) -> None:
    answers: list[object] = [[training], ConfigError("gone")]

    def known() -> Sequence[RunRecord]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return [training]

    read = watch.find(known)
    assert read() == read() == [training]
    answers.append(ConfigError("never there"))
    with pytest.raises(ConfigError):
        watch.find(known)()


def test_the_terminal_shows_curves_and_what_is_trained(
    cli: Cli, training: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("plotext")
    monkeypatch.setenv("COLUMNS", "80")
    done = cli("watch", "--terminal", str(training.path))
    assert done.code == 0
    assert "running training error (%)" in done.out
    assert "plain-20" in done.out
    assert " ".join(done.out.split()).endswith("test error 10.00%")
    assert "\033" not in done.out
    assert max(map(len, done.out.splitlines())) <= 80


def test_the_terminal_stays_while_nothing_is_trained_for_a_moment_between_two_runs(
    training: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("plotext")
    trains = iter([["a"], [], ["b"], [], []])
    looks: list[float] = []
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(watch, "running", lambda _: next(trains))
    monkeypatch.setattr(watch, "in_terminal", lambda *_, **__: "")
    monkeypatch.setattr("time.sleep", looks.append)
    look._watch_in_terminal(lambda: [training], 5.0)
    assert looks == [5.0] * 4
    assert next(trains, None) is None
