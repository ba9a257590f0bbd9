"""Are the figures of ``make bench`` right: the arithmetic on made-up measurements, the counting on real sockets and real processes?"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from loadgen.errors import RefusedError
from loadgen.mesh.children import Children
from tests.bench.hammers import __main__ as command
from tests.bench.hammers.arrivals import ANSWER, Server
from tests.bench.hammers.cost import Counts, Hit, Spread, Usage, costs, fault
from tests.bench.hammers.lateness import NS, Attack, Lateness, lateness, punctualities, quantile
from tests.bench.hammers.process import Core, process_s, read_cores
from tests.bench.hammers.tables import print_costs, print_punctualities
from tests.bench.hammers.target import REQUEST, envoy, read_counts, stamping, warm_up
from tests.bench.hammers.tools import TOOLS, Load, Tool, find

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

REPOSITORY = Path(__file__).parents[2]
PATIENCE_S = 20.0
MS = 10**6
TOOL = {tool.name: tool for tool in TOOLS}


# lateness


def schedule(count: int, rate_per_s: int = 1_000, start_ns: int = 7 * NS) -> list[int]:
    return [start_ns + k * NS // rate_per_s for k in range(count)]


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([5], 0.5, 5), ([1, 2], 0.5, 1), ([1, 2, 3], 0.5, 2), (range(1, 101), 0.99, 99), (range(1, 101), 0.0, 1), (range(1, 101), 1.0, 100)],
)
def test_a_quantile_is_the_nearest_rank(values: Sequence[int], share: float, expected: int) -> None:
    assert quantile(values, share) == expected


@pytest.mark.parametrize("start_ns", [0, 7 * NS, 7 * NS + 123_456_789])
def test_a_tool_that_keeps_to_the_schedule_is_never_late_whenever_it_began(start_ns: int) -> None:
    assert lateness(schedule(1_000, start_ns=start_ns), 1_000) == Lateness(0.0, 0.0, 0.0)


def test_a_rate_that_does_not_divide_a_second_makes_nobody_late() -> None:
    assert lateness([round(k * NS / 7_777) for k in range(10_000)], 7_777).max_s == 0


def test_the_order_of_the_stamps_does_not_matter() -> None:
    stamps = [stamp + random.Random(3).randrange(MS) for stamp in schedule(500)]
    mixed = random.Random(4).sample(stamps, len(stamps))
    assert lateness(mixed, 1_000) == lateness(sorted(stamps), 1_000)


def test_one_early_arrival_does_not_make_all_others_late() -> None:
    stamps = schedule(1_000)
    stamps[0] -= 50 * MS
    assert lateness(stamps, 1_000) == Lateness(0.0, 0.0, 0.0)


def test_one_late_arrival_is_the_maximum_and_nothing_else() -> None:
    stamps = schedule(1_000)
    stamps[500] += MS // 2
    assert lateness(stamps, 1_000) == Lateness(0.0, 0.0, 0.0005)


def test_a_pause_after_which_the_tool_catches_up_shows_in_the_share_that_it_held_up() -> None:
    late = lateness([max(stamp, 7 * NS + 500 * MS) if stamp >= 7 * NS + 400 * MS else stamp for stamp in schedule(1_000)], 1_000)
    assert late.p50_s == 0
    assert late.max_s == 0.1
    assert 0.08 < late.p99_s < 0.1


def test_bursts_are_late_by_what_lies_between_them() -> None:
    burst = 10
    stamps = [7 * NS + k // burst * burst * MS for k in range(1_000)]
    # the last of a burst is on time, the one before it would have been due 1 ms earlier had the burst begun the schedule: 9, 8, … 0 ms
    assert lateness(stamps, 1_000) == Lateness(p50_s=0.004, p99_s=0.009, max_s=0.009)


def test_a_tool_that_is_too_slow_is_ever_later() -> None:
    late = lateness(schedule(1_000, rate_per_s=500), 1_000)  # each millisecond of schedule takes two
    assert late.max_s == pytest.approx(0.990, abs=0.001)
    assert late.p50_s == pytest.approx(0.490, abs=0.001)


def test_requests_that_were_left_out_make_all_that_follow_late() -> None:
    stamps = schedule(1_000)
    assert lateness(stamps[:600] + stamps[620:], 1_000) == Lateness(p50_s=0.0, p99_s=0.020, max_s=0.020)
    assert lateness(stamps[:300] + stamps[320:], 1_000) == Lateness(p50_s=0.020, p99_s=0.020, max_s=0.020)


def test_requests_before_the_schedule_begins_cost_a_tool_nothing() -> None:
    stamps = schedule(10_000)
    assert lateness([stamps[0] - NS] * 64 + stamps, 1_000).max_s == 0


# the table of lateness

USAGE = Usage(elapsed_s=10.0, cpu_s=2.0, exit_code=0)


def attack(
    tool: str, number: int, *, p99_s: float = 0.002, arrived: int = 10_000, rate: int = 1_000, error: str = "", **usage: Any
) -> Attack:
    used = Usage(**{"elapsed_s": 10.0, "cpu_s": 2.0, "exit_code": 0, **usage})
    late = Lateness(p99_s / 2, p99_s, p99_s * 2) if arrived else None
    return Attack(tool, rate, number, used, 10_000, arrived, 64, 0, late, error)


def test_lateness_is_the_median_of_the_rounds_but_what_arrived_and_the_maximum_are_the_worst() -> None:
    rounds = [attack("oha", 1, p99_s=0.001), attack("oha", 2, p99_s=0.009, arrived=9_000), attack("oha", 3, p99_s=0.002, others_share=0.2)]
    (row,) = punctualities(rounds)
    assert row.lateness == Lateness(0.001, 0.002, 0.018)
    assert row.p99_s == Spread(0.002, 0.001, 0.009)
    assert (row.arrived_share, row.rounds, row.others_share) == (0.9, 3, 0.2)
    assert row.cpu_us == pytest.approx(200.0)


def test_rows_of_lateness_are_grouped_by_rate_and_keep_the_order_of_the_tools() -> None:
    rounds = [attack(tool, number, rate=rate) for number in (1, 2) for rate in (2_000, 500) for tool in ("vegeta", "oha")]
    found = [(row.rate_per_s, row.tool, row.rounds) for row in punctualities(rounds)]
    assert found == [(500, "vegeta", 2), (500, "oha", 2), (2_000, "vegeta", 2), (2_000, "oha", 2)]


def test_a_measurement_of_lateness_in_which_nothing_arrived_or_the_clock_moved_is_left_out() -> None:
    assert punctualities([attack("k6", 1, arrived=0), attack("oha", 1, error="the system's clock was moved")]) == []


# the table of costs


def hit(tool: str, number: int, cpu_us: float, *, requests: int = 1_000, error: str = "") -> Hit:
    return Hit(tool, number, Usage(elapsed_s=0.5, cpu_s=cpu_us * requests / 1e6, exit_code=0), Counts(requests, 0, 64), error)


def figures(spread: Spread) -> tuple[float, float, float]:
    return spread.median, spread.least, spread.most


def test_a_ratio_is_taken_within_the_round_so_that_a_slow_round_slows_both_sides() -> None:
    hits = [hit("wrk", 1, 10), hit("oha", 1, 15), hit("wrk", 2, 20), hit("oha", 2, 30), hit("wrk", 3, 10), hit("oha", 3, 16)]
    wrk, oha = costs(hits)
    assert wrk.ratio == Spread(1.0, 1.0, 1.0)
    assert oha.ratio is not None
    assert figures(oha.ratio) == pytest.approx((1.5, 1.5, 1.6))
    assert figures(oha.cpu_us) == pytest.approx((16, 15, 30))
    assert (oha.rate_per_s, oha.connections, oha.rounds) == (2_000, 64, 3)


def test_a_round_without_a_good_reference_has_no_ratio() -> None:
    hits = [hit("wrk", 1, 10, error="sent nothing"), hit("oha", 1, 15), hit("wrk", 2, 10), hit("oha", 2, 20)]
    assert {row.tool: row.ratio for row in costs(hits)}["oha"] == Spread(2.0, 2.0, 2.0)
    assert costs([hit("oha", 1, 15)])[0].ratio is None


def test_a_measurement_that_failed_is_left_out_of_the_row_and_a_tool_that_always_fails_has_none() -> None:
    hits = [hit("oha", 1, 15), hit("oha", 2, 99, error="ended with exit code 1"), hit("hey", 1, 5, error="sent nothing")]
    (row,) = costs(hits)
    assert (row.tool, row.rounds) == ("oha", 1)
    assert figures(row.cpu_us) == pytest.approx((15, 15, 15))


@pytest.mark.parametrize(
    ("code", "counts", "expected"),
    [
        (0, Counts(1_000, 0, 64), ""),
        (1, Counts(1_000, 0, 64), "ended with exit code 1"),
        (0, Counts(0, 0, 0), "sent nothing"),
        (0, Counts(1_000, 7, 64), "7 of 1,000 answers were not 2xx"),
    ],
)
def test_a_measurement_counts_only_if_the_tool_ended_well_and_every_answer_was_good(code: int, counts: Counts, expected: str) -> None:
    assert fault(Usage(elapsed_s=1.0, cpu_s=1.0, exit_code=code), counts) == expected


def test_both_tables_are_ascii_off_a_terminal_and_say_what_was_left_out() -> None:
    out = io.StringIO()
    print_costs([hit("wrk", 1, 9.2), hit("oha", 1, 13.8), hit("hey", 2, 1, error="sent nothing")], out)
    assert "disturbed" not in out.getvalue()
    print_punctualities(
        [attack("vegeta", 1, others_share=0.06, steal_share=0.05), attack("k6", 1, arrived=0, error="nothing arrived")], out
    )
    text = out.getvalue()
    assert text.isascii()
    assert "| oha  |      13.80 |  1.50 | 1.50..1.50 |      2,000 |" in text
    assert "|  1,000 | vegeta |  1.000 |  2.000 | 2.000..2.000 |  4.000 |  100.0% |          64 |      200.0 |" in text
    assert "left out: hey, round 2: sent nothing\n" in text
    assert "left out: k6, 1,000/s, round 1: nothing arrived\n" in text
    assert "disturbed: in 1 of 2 measurements" in text


# what the system and Envoy say


def test_the_seconds_of_a_core_are_those_of_processes_and_those_of_other_guests() -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    cores = read_cores("cpu  1 1 1 1 1 1 1 1 0 0\ncpu0 100 200 300 9 9 9 9 50 0 0\ncpu1 0 0 7 0 0 0 0 0 0 0\nintr 5\n")
    assert cores == {0: Core(600 / ticks, 50 / ticks), 1: Core(7 / ticks, 0.0)}
    assert Core(3.0, 1.0).since(Core(1.0, 0.5)) == Core(2.0, 0.5)


def test_the_seconds_of_a_process_are_read_though_its_name_holds_brackets_and_spaces() -> None:
    fields = ["S", *map(str, range(4, 14)), "250", "50", *map(str, range(16, 53))]
    assert process_s(f"17 (a) b) (c)) {' '.join(fields)}\n") == 300 / os.sysconf("SC_CLK_TCK")


def test_answers_other_than_2xx_are_failures_and_admin_counters_are_not_ours() -> None:
    names = {"rq_total": 105, "rq_1xx": 0, "rq_2xx": 100, "rq_3xx": 1, "rq_4xx": 2, "rq_5xx": 2, "cx_total": 64, "cx_active": 3}
    page = "".join(f"http.bench.downstream_{name}: {value}\n" for name, value in names.items())
    assert read_counts(f"{page}http.bench.downstream_rq_time: No recorded values\n".encode()) == (Counts(105, 5, 64), 3)


# the stamping server


@contextlib.contextmanager
def stamping_server() -> Iterator[tuple[Server, Callable[[], socket.socket]]]:
    """Run the server in a thread; when the context is left it has ended, and what it saw can be looked at."""
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as stack:
        ours, theirs = socket.socketpair()
        server = Server(listener, theirs)
        thread = threading.Thread(target=server.serve)
        thread.start()
        stack.callback(theirs.close)
        stack.callback(ours.close)
        stack.callback(thread.join, PATIENCE_S)
        stack.callback(ours.send, b".")
        yield server, lambda: stack.enter_context(socket.create_connection(listener.getsockname(), PATIENCE_S))


def answers(connection: socket.socket, count: int) -> None:
    """Wait until so many answers have come, and see that they are answers."""
    text = b""
    while len(text) < count * len(ANSWER):
        received = connection.recv(65536)
        assert received, "the server closed the connection"
        text += received
    assert text == ANSWER * count


def test_every_request_on_every_connection_is_answered_and_stamped_once() -> None:
    with stamping_server() as (server, connect):
        connections = [connect() for _ in range(5)]
        for _ in range(20):
            for each in connections:
                each.sendall(REQUEST)
            for each in connections:
                answers(each, 1)
    assert (len(server.stamps_ns), server.connections) == (100, 5)


@pytest.mark.parametrize("cut", range(1, len(REQUEST)))
def test_a_request_that_comes_in_two_pieces_counts_once(cut: int) -> None:
    with stamping_server() as (server, connect):
        connection = connect()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(REQUEST + REQUEST[:cut])  # the answer to the first shows that the piece was received on its own
        answers(connection, 1)
        connection.sendall(REQUEST[cut:])
        answers(connection, 1)
    assert len(server.stamps_ns) == 2


def test_pipelined_requests_are_all_counted_though_they_are_more_than_one_receive_takes() -> None:
    with stamping_server() as (server, connect):
        connection = connect()
        connection.sendall(REQUEST * 1_000)
        answers(connection, 1_000)
    assert len(server.stamps_ns) == 1_000


def test_a_client_that_goes_away_within_a_request_is_not_counted_and_does_no_harm() -> None:
    with stamping_server() as (server, connect):
        with connect() as broken:
            broken.sendall(REQUEST[:-1])
        with connect() as reset:
            reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            reset.sendall(REQUEST[:-1])
        connection = connect()  # it may get the number of one that went away
        connection.sendall(REQUEST)
        answers(connection, 1)
    assert len(server.stamps_ns) == 1


def test_a_stamp_lies_between_the_moments_before_and_after_its_request_on_the_monotonic_clock() -> None:
    moments = []
    with stamping_server() as (server, connect):
        connection = connect()
        for _ in range(50):
            moments.append(time.monotonic_ns())
            connection.sendall(REQUEST)
            answers(connection, 1)
        moments.append(time.monotonic_ns())
    slack_ns = 20_000  # the two clocks are compared to within this
    for (before, after), stamp in zip(itertools.pairwise(moments), server.stamps_ns, strict=True):
        assert before - slack_ns <= stamp <= after + slack_ns


def test_the_kernel_stamps_once_it_has_switched_its_stamping_on() -> None:
    with stamping_server() as (server, connect):
        connection, deadline = connect(), time.monotonic() + PATIENCE_S
        unstamped = -1
        while unstamped != len(server.unstamped_ns) and time.monotonic() < deadline:
            unstamped = len(server.unstamped_ns)
            connection.sendall(REQUEST)
            answers(connection, 1)
    assert len(server.unstamped_ns) < len(server.stamps_ns)


def test_the_server_as_a_process_tells_exactly_what_came_after_its_warm_up(tmp_path: Path) -> None:
    with Children() as children, stamping(children, min(os.sched_getaffinity(0)), tmp_path) as stamps:
        began_ns = time.monotonic_ns()
        connections = [socket.create_connection(stamps.address, PATIENCE_S) for _ in range(3)]
        for connection in connections:
            connection.sendall(REQUEST * 4)
            answers(connection, 4)
            connection.close()
    assert (len(stamps.stamps_ns), stamps.connections) == (12, 3)
    assert min(stamps.stamps_ns) >= began_ns


# Envoy


@pytest.mark.envoy
def test_the_target_counts_every_request_and_every_connection_of_a_tool(tmp_path: Path) -> None:
    with Children() as children, envoy(children, min(os.sched_getaffinity(0)), tmp_path) as target:
        warm_up(target.address, 4, 0.05)
        before = target.counts()
        with socket.create_connection(target.address, PATIENCE_S) as connection, connection.makefile("rb") as answer:
            for _ in range(7):
                connection.sendall(REQUEST)
                head = list(iter(answer.readline, b"\r\n"))
                assert head[0] == b"HTTP/1.1 200 OK\r\n"
                assert answer.read(5) == b"Kevin"
        assert target.counts().since(before) == Counts(requests=7, failures=0, connections=1)


# the tools


@pytest.mark.parametrize("rate_per_s", [None, 2_000])
@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_every_command_line_names_its_target_and_leaves_nothing_to_fill_in(tool: Tool, rate_per_s: int | None, tmp_path: Path) -> None:
    load = Load("http://127.0.0.1:1/", 3, 64, tmp_path / "a folder" / "targets.txt", rate_per_s)
    words = tool.arguments(load)
    if words:
        assert any("http://127.0.0.1:1" in word or word == str(load.targets) for word in words)
        assert not any(mark in word for word in words for mark in "{}")


def test_the_rate_of_one_connection_is_its_share() -> None:
    words = TOOL["hey"].arguments(Load("http://127.0.0.1:1/", 3, 64, Path("targets"), 2_000))
    assert words[words.index("-q") + 1] == "31.25"


def test_wrk_has_no_constant_rate() -> None:
    assert TOOL["wrk"].arguments(Load("http://127.0.0.1:1/", 3, 64, Path("targets"), 2_000)) == []


def test_a_tool_is_found_in_a_further_folder_with_the_version_that_it_tells(tmp_path: Path) -> None:
    binary = tmp_path / "hammer-of-nobody"
    tool = Tool("hammer-of-nobody", "{url}", version="version")
    assert find(tool, [tmp_path]) is None
    binary.write_text('#!/bin/sh\necho "hammer v1.2.3 (go1.99.1)" >&2\nexit 1\n', encoding="utf-8")
    binary.chmod(0o755)
    found = find(tool, [tmp_path])
    assert found is not None
    assert (found.start, found.version) == ((str(binary),), "1.2.3")


def test_a_script_is_not_installed_if_its_module_is_not() -> None:
    assert find(Tool("nobody", "{url}", module="a_module_of_nobody"), []) is None
    httpx = find(TOOL["httpx"], [])
    assert httpx is not None
    assert httpx.start == (sys.executable,)


# a run of a tool

BURN = "import time\nwhile time.process_time() < 0.1: pass\n"
FORKS = """
import os, time
ours, theirs = os.pipe()
if os.fork():
    os.close(theirs)
    {parent}
else:
    {child}
    while time.process_time() < 0.1: pass
"""
MEASURE = """
import os, sys
from pathlib import Path
from loadgen.mesh.children import Children
from tests.bench.hammers.process import Cores, adopt_orphans, run
adopt_orphans()
core = min(os.sched_getaffinity(0))
with Children() as children:
    target = children.start("the target", ["sleep", "60"], Path(sys.argv[1]) / "target.log")
    used = run(children, "the tool", [sys.executable, "-c", sys.argv[2]], Path(sys.argv[1]) / "log", Cores(core, core), target, float(sys.argv[3]))
print(used.cpu_s, used.exit_code)
"""


def measured(tmp_path: Path, tool: str, deadline_s: float = PATIENCE_S) -> tuple[float, int]:
    """Measure a tool in a process of its own, for becoming a subreaper cannot be undone by a test."""
    command_line = [sys.executable, "-c", MEASURE, str(tmp_path), tool, str(deadline_s)]
    said = subprocess.run(command_line, cwd=REPOSITORY, capture_output=True, text=True, timeout=2 * PATIENCE_S, check=True)
    cpu_s, code = said.stdout.split()
    return float(cpu_s), int(code)


@pytest.mark.parametrize(
    "tool",
    [
        BURN,
        FORKS.format(parent="os.wait()", child="pass"),
        FORKS.format(parent="os.read(ours, 1)  # until the grandchild has ended", child="if os.fork(): os._exit(0)"),
    ],
    ids=["one process", "a child that is waited for", "a grandchild that nobody waits for"],
)
def test_cpu_is_that_of_the_whole_process_tree(tmp_path: Path, tool: str) -> None:
    cpu_s, code = measured(tmp_path, tool)
    assert cpu_s >= 0.1
    assert code == 0


def test_a_tool_that_does_not_end_is_killed_with_its_children_and_shows_it(tmp_path: Path) -> None:
    _, code = measured(tmp_path, FORKS.format(parent="time.sleep(60)", child="time.sleep(60)"), deadline_s=0.3)
    assert code == 124


def test_the_exit_code_of_a_tool_is_kept(tmp_path: Path) -> None:
    assert measured(tmp_path, "raise SystemExit(7)")[1] == 7


# the command

SHORT = ["--table", "lateness", "--tools", "metronome", "--rounds", "1", "--lateness-seconds", "1", "--rates", "200"]

needs_two_cores = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="the target needs one core and the tool another")


def bench(*options: str) -> subprocess.Popen[str]:
    cores = sorted(os.sched_getaffinity(0))[:2]
    command_line = [sys.executable, "-m", "tests.bench.hammers", *options]
    command_line += ["--target-core", str(cores[0]), "--tool-core", str(cores[1])]
    return subprocess.Popen(command_line, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@needs_two_cores
def test_a_run_prints_the_table_and_writes_everything(tmp_path: Path) -> None:
    out = tmp_path / "new" / "bench.json"
    said, progress = bench(*SHORT, "--out", str(out)).communicate(timeout=PATIENCE_S)
    assert "metronome  installed" in said
    assert "| metronome |" in said
    assert progress.count("metronome") == 1
    results = json.loads(out.read_text(encoding="utf-8"))
    assert [each["arrived"] for each in results["lateness"]["measurements"]] == [200]
    assert [row["tool"] for row in results["lateness"]["rows"]] == ["metronome"]


@needs_two_cores
def test_an_interrupted_run_ends_what_it_started_and_keeps_what_it_measured(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    process = bench(*SHORT, "--rates", "200," * 20 + "200", "--out", str(out))
    assert process.stderr is not None
    assert "metronome" in process.stderr.readline(), "the first measurement is over and the second has begun"
    children = [os.pidfd_open(pid) for pid in children_of(process.pid, least=2)]  # the server and the tool
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert "| metronome |" in said
    assert len(json.loads(out.read_text(encoding="utf-8"))["lateness"]["measurements"]) >= 1
    for child in children:
        assert ended(child)


def children_of(pid: int, least: int) -> list[int]:
    """Wait until a process has so many children, and give all that it has."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        pids = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
        if len(pids) >= least:
            return [int(each) for each in pids]
    raise AssertionError("the children were not started")


def ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(PATIENCE_S * 1000))


@pytest.mark.parametrize(("options", "message"), [("--tools=wkr", "unknown: wkr; known are"), ("--rounds=0", "must be at least 1")])
def test_a_wrong_option_is_usage(options: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["hammers", options])
    with pytest.raises(SystemExit, match="2"):
        command._options()
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("tool_core", [min(os.sched_getaffinity(0)), 1_000_000])
def test_a_core_for_both_or_one_that_is_not_ours_is_refused(tool_core: int) -> None:
    with pytest.raises(RefusedError, match="the target needs one core and the tool another"):
        command._cores(argparse.Namespace(target_core=min(os.sched_getaffinity(0)), tool_core=tool_core))


def test_no_proxy_of_the_environment_gets_the_load(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTPS_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "192.0.2.1:1")
    command._plain_environment()
    assert not [name for name in os.environ if name.lower().endswith("_proxy")]
