"""Does every mistake in a scenario have its place, its offending text, what is allowed, and the nearest right name?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from loadgen.inputs import load_plan
from loadgen.pacing import Closed, Interval, Open, RateCourse
from loadgen.scenario import ClosedLoad, OpenLoad

from .examples import OPEN, SCENARIO, changed, marked, mistakes, write

if TYPE_CHECKING:
    from pathlib import Path

    from loadgen.pacing import Pacing

DURATION = "write for example 250ms, 8s or 1m30s"
NAME = "is no valid name; it may hold lower-case letters, digits and, between them, '-', at most 40 characters"
SERVICE = "is not allowed; allowed is a service of the mesh, <service>.<namespace>.svc.cluster.local:<port>"
LIKE = "url: the target must look like http://user.base.svc.cluster.local:7000/"
ASCII = "url: the target may hold printable ASCII characters only"
PORT = "url: the port of the target must be a number from 1 to 65535"
EXPECTATION = "is no expectation; write for example ok == 100%, overflow > 0 or p99 < 200ms"

# old text, new text, line, column, marked text, message (its start), hint (its start)
VALUES = [
    ("count: 10", "count: ten", 8, 10, "ten", "count must be a whole number, not the text 'ten'", ""),
    ("count: 10", "count: '10'", 8, 10, "'10'", "count must be a whole number, not the text '10'", ""),
    ("count: 10", "count: 1.5", 8, 10, "1.5", "count must be a whole number, not 1.5", ""),
    ("count: 10", "count: true", 8, 10, "true", "count must be a whole number, not true", ""),
    ("count: 10", "count: [10]", 8, 10, "[10]", "count must be a whole number, not a list", ""),
    ("count: 10", "count: -1", 8, 10, "-1", "count must be at least 1, not -1", ""),
    ("count: 10", "count: 0", 8, 10, "0", "count must be at least 1, not 0", ""),
    ("count: 10", "count: 201", 8, 10, "201", "count must be at most 200, not 201", ""),
    ("count: 10", "count: 3000000000", 8, 10, "3000000000", "count must be at most 200, not 3000000000", ""),
    ("count: 10", f"count: {'9' * 400}", 8, 10, "9" * 400, "count must be", ""),
    ("count: 10", "count:", 8, 9, "", "count must be a whole number, not nothing", ""),
    ("count: 10", "workers: 17", 8, 12, "17", "workers must be at most 16, not 17", ""),
    ("count: 10", "labels: {app: 1}", 8, 17, "1", "app must be text, not 1", ""),
    ("count: 10", "labels: [app]", 8, 11, "[app]", "labels must be a mapping, not a list", ""),
    ("users: 5", "users: 0", 12, 10, "0", "users must be at least 1, not 0", ""),
    ("users: 5", "users: 2001", 12, 10, "2001", "users must be at most 2000, not 2001", ""),
    ("status: 200", "status: 99", 5, 13, "99", "status must be at least 200, not 99", ""),
    ("status: 200", "status: 204", 5, 13, "204", "status: an answer with status 204 has no body to compare", ""),
    ("body: Kevin", r'body: "a\0b"', 6, 11, r'"a\0b"', "body: the expected body cannot hold a NUL character", ""),
    ("body: Kevin", "body: 3", 6, 11, "3", "body must be text, not 3", ""),
    ("body: Kevin", f"body: {'a' * 1025}", 6, 11, "a" * 1025, "body must be at most 1024 characters long", ""),
    ("name: connection-pool", "name: Connection_Pool", 1, 7, "Connection_Pool", f"name: the text 'Connection_Pool' {NAME}", ""),
    ("namespace: test", "namespace: -test", 9, 14, "-test", f"namespace: the text '-test' {NAME}", ""),
    ("service:", "seed: -1\nservice:", 14, 7, "-1", "seed must be at least 0, not -1", ""),
    ("service:", "seed: 2147483648\nservice:", 14, 7, "2147483648", "seed must be at most 2147483647, not 2147483648", ""),
]
DURATIONS = [
    ("8", "8", "duration: the duration 8 has no unit; write 8s or 8ms"),
    ("1.5", "1.5", "duration: the duration 1.5 has no unit; write 1.5s or 1.5ms"),
    ("'8'", "'8'", "duration: the duration 8 has no unit; write 8s or 8ms"),
    ("30 m", "30 m", "duration: '30 m' is no duration; write 30m"),
    ("8sec", "8sec", f"duration: '8sec' is no duration; {DURATION}"),
    ("-5s", "-5s", f"duration: '-5s' is no duration; {DURATION}"),
    ("-5", "-5", f"duration: '-5' is no duration; {DURATION}"),
    ("0s", "0s", "duration: the duration must be more than 0"),
    ("0", "0", f"duration: '0' is no duration; {DURATION}"),
    ("25h", "25h", "duration: '25h' is longer than 24h"),
    ("9" * 400 + "h", "9" * 400 + "h", f"duration: '{'9' * 40}…' is longer than 24h"),
    (".inf", ".inf", f"duration: 'inf' is no duration; {DURATION}"),
    (".nan", ".nan", f"duration: 'nan' is no duration; {DURATION}"),
    ("1e3s", "1e3s", f"duration: '1e3s' is no duration; {DURATION}"),
    ("\uff11s", "\uff11s", f"duration: '\uff11s' is no duration; {DURATION}"),
    ("[8s]", "[8s]", f"duration: a list is no duration; {DURATION}"),
    ("{}", "{}", f"duration: a mapping is no duration; {DURATION}"),
    ("null", "null", f"duration: nothing is no duration; {DURATION}"),
]
VALUES += [("duration: 10s", f"duration: {value}", 23, 15, text, message, "") for value, text, message in DURATIONS]
VALUES += [
    ("exponential 30ms", value, 13, 15, value, f"think_time: {message}", "")
    for value, message in [
        ("gauss 3s", "'gauss' is no kind of interval; write none, constant 20ms or exponential 20ms"),
        ("exponential 30", "the duration 30 has no unit; write 30s or 30ms"),
        ("constant -3s", f"'-3s' is no duration; {DURATION}"),
        ("30 ms", "'30 ms' is no duration; write 30ms"),
        ("random 1s 5s", f"'random 1s 5s' is no duration; {DURATION}"),
        ("[]", f"a list is no duration; {DURATION}"),
    ]
]
TARGETS = [
    ("http://example.com/", f"url: the target 'example.com' {SERVICE}"),
    ("http://example.com:7000", f"url: the target 'example.com:7000' {SERVICE}"),
    ("http://8.8.8.8/", f"url: the target '8.8.8.8' {SERVICE}"),
    ("http://127.1/", f"url: the target '127.1' {SERVICE}"),
    ("http://169.254.169.254/latest", f"url: the target '169.254.169.254' {SERVICE}"),
    ("http://metadata.google.internal/", f"url: the target 'metadata.google.internal' {SERVICE}"),
    ("http://localhost:7000/", f"url: the target 'localhost:7000' {SERVICE}"),
    ("http://[::1]:7000/", f"url: the target '[::1]:7000' {SERVICE}"),
    ("http://user:7000/", f"url: the target 'user:7000' {SERVICE}"),
    ("http://user.base:7000/", f"url: the target 'user.base:7000' {SERVICE}"),
    ("http://user.base.svc.example.com/", f"url: the target 'user.base.svc.example.com' {SERVICE}"),
    ("http://a.user.base.svc.cluster.local/", f"url: the target 'a.user.base.svc.cluster.local' {SERVICE}"),
    (f"http://{'a' * 64}.base.svc/", f"url: the target '{'a' * 64}.base.svc' {SERVICE}"),
    ("https://user.base.svc.cluster.local:7000/", LIKE),
    ("user.base.svc.cluster.local:7000", LIKE),
    ("http://a:b@user.base.svc.cluster.local/", LIKE),
    ("http://@user.base.svc.cluster.local/", LIKE),
    ("http://user.base.svc.cluster.local@example.com/", LIKE),
    ("http://user.base.svc.cluster.local/?a=b", LIKE),
    ("http://user.base.svc.cluster.local/?", LIKE),
    ("http://user.base.svc.cluster.local/#a", LIKE),
    ("http://user.base.svc.cluster.local:0/", PORT),
    ("http://user.base.svc.cluster.local:99999/", PORT),
    ("http://user.base.svc.cluster.local:-1/", PORT),
    ("http://user.base.svc.cluster.local:7_0/", PORT),
    ("http://[::1/", "url: the text 'http://[::1/' is no URL: Invalid IPv6 URL"),
    ("http://user.base.svc/a b", ASCII),
    ("http://user.base.svc/\u00e9", ASCII),
    ('"http://user.base.svc/\\r\\nHost: a"', ASCII),
    ('"http://us\\ner.base.svc/"', ASCII),
    ('"http://user.base.svc/a\\tb"', ASCII),
    ("7000", "url must be text, not 7000"),
]
VALUES += [("http://user.base.svc.cluster.local:7000/", url, 3, 8, url, message, "") for url, message in TARGETS]
NAMES = [
    ("think_time:", "thinktime:", 13, 3, "thinktime", "unknown key 'thinktime'", "did you mean 'think_time'? allowed here: model, users,"),
    ("    status:", "    Status:", 5, 5, "Status", "unknown key 'Status'", "did you mean 'status'? allowed here: status, body"),
    ("  time:", "  tim:", 15, 3, "tim", "unknown key 'tim'", "did you mean 'time'? allowed here: time"),
    ("    duration: 8s", "    duraton: 8s", 20, 5, "duraton", "unknown key 'duraton'", "did you mean 'duration'? allowed here: name,"),
    ("service:", "services:", 14, 1, "services", "unknown key 'services'", "did you mean 'service'? allowed here: name, description,"),
    ("  users: 5", "  closed: {}\n  users: 5", 12, 3, "closed", "unknown key 'closed'", "allowed here: model, users, think_time, timeout"),
    ("model: closed", "model: close", 11, 10, "close", "model cannot be the text 'close'", "did you mean 'closed'? allowed here: closed, open"),
    ("model: closed", "model: 3", 11, 10, "3", "model cannot be 3", "allowed here: closed, open"),
    ("model: closed", "model:", 11, 9, "", "model cannot be nothing", "allowed here: closed, open"),
    ("  model: closed\n", "", 10, 1, "load", "the key 'model' is missing", "add it under load; it can be closed or open"),
    ("name: connection-pool\n", "", 1, 1, "target:", "the key 'name' is missing", "add it at the top level"),
    ("    body: Kevin\n", "", 4, 3, "expect", "the key 'body' is missing", "add it under target.expect"),
    ("  users: 5\n", "", 10, 1, "load", "the key 'users' is missing", "add it under load"),
    ("    policy: removed\n", "", 24, 5, "name: recovered", "the key 'policy' is missing", "add it under phases"),
    ("policy: removed", "policy: remove", 25, 13, "remove", "policy cannot be the text 'remove'", "did you mean 'removed'? allowed here: absent,"),
    ("policy: removed", "policy: off", 25, 13, "off", "policy cannot be the text 'off'", "allowed here: absent, applied, removed"),
    ("policy: removed", "policy: absent", 25, 13, "absent", "the policy was applied before; it can only be removed now", "use removed"),
    ("policy: absent", "policy: removed", 19, 13, "removed", "the policy cannot be removed before it was applied", "use absent, or put"),
    ("policy: policies/user.yaml\n", "", 21, 13, "applied", "the phase applies a policy, but the scenario names none", "add 'policy:"),
    ("policies/user.yaml", "", 22, 13, "applied", "the phase applies a policy, but the scenario names none", "add 'policy:"),
    ("policies/user.yaml", "''", 16, 9, "''", "policy must be a text that is not empty", ""),
    ("policies/user.yaml", "[a]", 16, 9, "[a]", "policy must be text, not a list", ""),
    ("  run: verdict", "  ran: verdict", 30, 3, "ran", "there is no phase 'ran'", "did you mean 'run'? allowed here: baseline, limited, recovered, run"),
]  # fmt: skip
EXPECTATIONS = [
    ("ok = 100%", "the text 'ok = 100%' is no expectation; '=' compares nothing; did you mean 'ok == 100%'?"),
    ("ok == 101%", "101% is more than 100%"),
    ("ok == -1%", "'-1%' is no percentage; write for example 100%"),
    ("ok == 1e3", "'1e3' must be a whole number, such as 0, or a percentage, such as 100%"),
    ("ok == \u0661", "'\u0661' must be a whole number"),
    ("okk == 1", "unknown metric 'okk'; did you mean 'ok'? allowed here: ok, overflow, unavailable"),
    ("p99 < 200", "the duration 200 has no unit; write 200s or 200ms"),
    ("p99 < 10%", f"'10%' is no duration; {DURATION}"),
    ("ledger == 0%", "'0%' must be a whole number, such as 0"),
    ("verdict == enforced", "'verdict' is a figure of the run; write it under run"),
    ("5", f"5 {EXPECTATION}"),
    ("{}", f"a mapping {EXPECTATION}"),
    ("null", f"nothing {EXPECTATION}"),
    ("a<a" * 50_000, f"the text '{'a<a' * 20}…' {EXPECTATION}"),
]
NAMES += [("baseline: ok == 100%", f"baseline: {text}", 28, 13, text, message, "") for text, message in EXPECTATIONS]
NAMES += [
    ("verdict == enforced", text, 30, 8, text, message, "")
    for text, message in [
        ("verdict == enforce", "unknown verdict 'enforce'; did you mean 'enforced'? allowed here: enforced, overshoot,"),
        ("verdict > enforced", "verdict can be compared with == or !=, not with >"),
        ("verdict is enforced", "the text 'verdict is enforced' is no expectation; write for example verdict == enforced"),
        ("ok == 100%", "'ok' is a figure of a phase; write it under its name"),
    ]
]
LISTS = [
    ("  limited: [ok > 0, overflow > 0]", "  limited: [ok > 0, 5]", 29, 21, "5", f"5 {EXPECTATION}", ""),
    ("  limited: [ok > 0, overflow > 0]", "  limited: [[ok > 0]]", 29, 13, "[ok > 0]", f"a list {EXPECTATION}", ""),
]


@pytest.mark.parametrize(
    ("old", "new", "line", "column", "text", "message", "hint"),
    [*VALUES, *NAMES, *LISTS],
    ids=lambda value: value[:40] if isinstance(value, str) else None,
)
def test_a_mistake_has_its_place_its_text_a_reason_and_a_remedy(
    tmp_path: Path, old: str, new: str, line: int, column: int, text: str, message: str, hint: str
) -> None:
    scenario = changed(old, new)
    found = [problem for problem in mistakes(tmp_path, scenario) if problem.message.startswith(message)]
    assert [(each.line, each.column, marked(each)) for each in found] == [(line, column, text)]
    assert found[0].file == str(tmp_path / "scenario.yaml")
    assert found[0].excerpt == scenario.splitlines()[line - 1]
    assert found[0].hint.startswith(hint)


@pytest.mark.parametrize(("old", "new", "message"), [(row[0], row[1], row[5]) for row in [*VALUES, *LISTS]], ids=lambda value: value[:40])
def test_a_wrong_value_is_told_once_and_nothing_else_is_blamed(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert len(mistakes(tmp_path, changed(old, new))) == 1


RATES = [
    ("50", "'50' is no rate; write for example 50/s or 300/m"),
    ("50 / s", "'50 / s' is no rate; write for example 50/s or 300/m"),
    ("5/d", "'5/d' is no rate; write for example 50/s or 300/m"),
    ("-1/s", "'-1/s' is no rate; write for example 50/s or 300/m"),
    ("0/s", "the rate must be at least 1/h"),
    (f"0.{'0' * 400}1/s", "the rate must be at least 1/h"),
    ("50001/s", "the rate may be at most 50000/s in each client"),
    (f"{'9' * 400}/s", "the rate may be at most 50000/s in each client"),
    ("null", "nothing is no rate"),
]


@pytest.mark.parametrize(("text", "message"), RATES, ids=lambda value: value[:40])
def test_a_wrong_rate_says_how_to_write_one(tmp_path: Path, text: str, message: str) -> None:
    (problem,) = mistakes(tmp_path, changed("50/s", text, OPEN))
    assert (problem.line, problem.column, marked(problem)) == (12, 9, text)
    assert problem.message.startswith(f"rate: {message}")


def test_the_keys_of_a_closed_load_are_unknown_in_an_open_one(tmp_path: Path) -> None:
    found = mistakes(tmp_path, changed("model: closed", "model: open"))
    assert [(each.line, each.message, each.hint) for each in found] == [
        (10, "the key 'rate' is missing", "add it under load"),
        (12, "unknown key 'users'", "allowed here: model, rate, stages, arrivals, max_in_flight, timeout"),
        (13, "unknown key 'think_time'", "allowed here: model, rate, stages, arrivals, max_in_flight, timeout"),
    ]


def test_an_unknown_kind_of_arrivals_is_shown_with_the_nearest_one(tmp_path: Path) -> None:
    (problem,) = mistakes(tmp_path, changed("poisson", "poison", OPEN))
    assert (problem.message, problem.hint) == (
        "arrivals cannot be the text 'poison'",
        "did you mean 'poisson'? allowed here: constant, poisson",
    )


PHASES = SCENARIO[: SCENARIO.index("phases:")]
SHAPES = [
    (f"{PHASES}phases: []\n", 17, 9, "phases must have at least 1 entry, not 0"),
    (f"{PHASES}phases:\n", 17, 8, "phases must be a list, not nothing"),
    (f"{PHASES}phases: {{name: a}}\n", 17, 9, "phases must be a list, not a mapping"),
    (f"{PHASES}phases: [null]\n", 17, 10, "phases must be a mapping, not nothing"),
    (f"{PHASES}phases: [baseline]\n", 17, 10, "phases must be a mapping, not the text 'baseline'"),
    (
        f"{PHASES}phases:\n" + "".join(f"- {{name: a{n}, policy: absent, duration: 1s}}\n" for n in range(21)),
        18,
        1,
        "phases must have at most 20 entries, not 21",
    ),
    (PHASES, 1, 1, "the key 'phases' is missing"),
    ("- name: a\n", 1, 1, "the document must be a mapping, not a list"),
    ("just words\n", 1, 1, "the document must be a mapping, not the text 'just words'"),
    ("42\n", 1, 1, "the document must be a mapping, not 42"),
    *[
        (changed(f"{key}:\n", f"{key}:\n_{key}:\n"), line, len(key) + 2, f"{key} must be a mapping, not nothing")
        for key, line in [("target", 2), ("clients", 7), ("load", 10), ("service", 14), ("expectations", 27)]
    ],
    (changed("  expect:\n", "  expect:\n  _expect:\n"), 4, 10, "expect must be a mapping, not nothing"),
]


@pytest.mark.parametrize(("text", "line", "column", "message"), SHAPES, ids=lambda value: value[-60:] if isinstance(value, str) else None)
def test_a_value_of_the_wrong_shape_says_what_belongs_there(tmp_path: Path, text: str, line: int, column: int, message: str) -> None:
    assert (line, column, message) in [(each.line, each.column, each.message) for each in mistakes(tmp_path, text)]


def test_a_phase_name_that_is_used_twice_names_both_phases(tmp_path: Path) -> None:
    found = mistakes(tmp_path, changed("name: limited", "name: baseline"))
    assert [(each.line, each.column, each.message, each.hint) for each in found] == [
        (21, 11, "the phase name 'baseline' is used twice", "phase 1 has it already; each result needs a name of its own"),
        (29, 3, "there is no phase 'limited'", "allowed here: baseline, recovered, run"),
    ]


@pytest.mark.parametrize("name", ["Limited", "a_b", "a b", "-a", "a-", "''", "a" * 41, "'a/../b'", '"a\\n"', "\u00e9"])
def test_a_phase_name_is_fit_for_a_label_and_a_file_name(tmp_path: Path, name: str) -> None:
    problem = mistakes(tmp_path, changed("name: limited", f"name: {name}"))[0]
    assert (problem.line, problem.column, marked(problem)) == (21, 11, name)
    assert problem.message.endswith(NAME)


def test_a_phase_cannot_take_the_name_that_means_the_whole_run(tmp_path: Path) -> None:
    problem = mistakes(tmp_path, changed("name: limited", "name: run"))[0]
    assert (problem.line, problem.column, problem.message) == (21, 11, "a phase cannot be called 'run'")


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = SCENARIO
    for old, new in [
        ("name: connection-pool\n", ""),
        ("count: 10", "count: 0"),
        ("users", "user"),
        ("duration: 8s", "duration: 8"),
        ("policy: removed", "policy: remove"),
        ("ok > 0", "ok > x"),
    ]:
        text = changed(old, new, text)
    assert [(each.line, each.code) for each in mistakes(tmp_path, text)] == [
        (1, "missing-key"),
        (7, "invalid"),
        (9, "missing-key"),
        (11, "unknown-key"),
        (19, "invalid"),
        (24, "unknown-value"),
        (28, "expectation"),
    ]


def test_mistakes_of_the_scenario_and_of_its_rule_are_told_together(tmp_path: Path) -> None:
    rule = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a}\nspec:\n  host: user\n  trafficPolicy:\n    connectionPool:\n      http:\n"
    keys = "        http2MaxRequest: 3\n        maxRetries: 2147483648\n        http1MaxPendingRequests: '1'\n"
    found = mistakes(tmp_path, changed("count: 10", "count: 0"), rule + keys)
    policy = str(tmp_path / "policies" / "user.yaml")
    assert [(each.file, each.line, each.message) for each in found] == [
        (str(tmp_path / "scenario.yaml"), 8, "count must be at least 1, not 0"),
        (policy, 9, "unknown key 'http2MaxRequest'"),
        (policy, 10, "maxRetries: must be at most 2147483647, not 2147483648; leave the key out for no limit"),
        (policy, 11, "http1MaxPendingRequests: must be a number without quotes: write 1"),
    ]
    assert found[1].hint.startswith("did you mean 'http2MaxRequests'?")


def test_text_from_a_file_cannot_drive_the_terminal(tmp_path: Path) -> None:
    escape = '"\\e[2J\\n\\u202e"'
    text = changed("name: limited", f"name: {escape}", changed("duration: 8s", f"duration: {escape}"))
    text = changed("run: verdict", f"{escape}: verdict", changed("baseline: ok == 100%", f"baseline: {escape}", text))
    text = changed("policies/user.yaml", escape, text) + f"{escape}: 1\n{escape}: 1\n"
    found = mistakes(tmp_path, text)  # which looks for what cannot be printed
    assert sum("\\x1b[2J\\n\\u202e" in str(each) for each in found) >= 6


def test_a_message_shows_the_line_with_carets_under_the_offending_text(tmp_path: Path) -> None:
    (problem,) = mistakes(tmp_path, changed("  think_time", "\n  thinktime"))
    assert str(problem).removeprefix(str(tmp_path)).split("\n") == [
        "/scenario.yaml:14:3: error: unknown key 'thinktime'",
        "   14 |   thinktime: exponential 30ms",
        "      |   ^^^^^^^^^",
        "   hint: did you mean 'think_time'? allowed here: model, users, think_time, timeout",
    ]


def test_a_long_line_is_cut_around_the_offending_text(tmp_path: Path) -> None:
    (problem,) = mistakes(tmp_path, changed("clients:\n  count: 10", f"clients: {{labels: {{a: {'x' * 5000}}}, count: 0}}\n_:\n"))[:1]
    excerpt, carets = str(problem).split("\n")[1:3]
    assert len(excerpt) < 140
    assert excerpt[carets.index("^")] == "0"


def test_a_scenario_without_mistakes_is_read_as_it_stands(tmp_path: Path) -> None:
    plan = load_plan(write(tmp_path, SCENARIO))
    scenario = plan.scenario
    assert isinstance(scenario.load, ClosedLoad)
    assert (scenario.clients.count, scenario.load.users, scenario.load.think_time.mean_s) == (10, 5, 0.03)
    assert [(phase.name, phase.policy, phase.duration) for phase in scenario.phases] == [
        ("baseline", "absent", 8.0),
        ("limited", "applied", 10.0),
        ("recovered", "removed", 9.0),
    ]
    assert [str(each) for each in scenario.expected()] == ["ok == 100%", "ok > 0", "overflow > 0", "verdict == enforced"]
    assert (plan.service.host, plan.service.ports, scenario.target.path) == ("user.base.svc.cluster.local", (7000,), "/")
    assert ([rule.key for rule in plan.rules], plan.findings) == (["base/user"], ())


def test_an_open_load_is_read_as_it_stands(tmp_path: Path) -> None:
    load = load_plan(write(tmp_path, OPEN)).scenario.load
    assert isinstance(load, OpenLoad)
    assert (load.rate, load.arrivals, load.timeout, load.max_in_flight) == (50.0, "poisson", 3.0, 1000)


@pytest.mark.parametrize(
    ("text", "pacing", "max_in_flight"),
    [
        (SCENARIO, Closed(5, Interval(0.03, exponential=True)), 5),
        (changed("  think_time: exponential 30ms\n", ""), Closed(5, Interval()), 5),
        (OPEN, Open(RateCourse(50), poisson=True), 1000),
        (changed("poisson", "constant", OPEN), Open(RateCourse(50)), 1000),
        (changed("50/s", "50000/s", OPEN), Open(RateCourse(50_000), poisson=True), 1000),
        (changed("50/s", "1/h", OPEN), Open(RateCourse(1 / 3600), poisson=True), 1000),
    ],
)
def test_a_load_model_paces_one_client_as_it_says(tmp_path: Path, text: str, pacing: Pacing, max_in_flight: int) -> None:
    load = load_plan(write(tmp_path, text)).scenario.load
    assert load.max_in_flight == max_in_flight
    if isinstance(pacing, Open):
        assert isinstance(load.pacing, Open)
        assert load.pacing.poisson is pacing.poisson
        assert [load.pacing.course.arrived(at) for at in (1, 10, 10_000)] == [pacing.course.arrived(at) for at in (1, 10, 10_000)]
    else:
        assert load.pacing == pacing


def test_a_value_of_several_lines_is_marked_to_the_end_of_its_first_line(tmp_path: Path) -> None:
    (problem,) = mistakes(tmp_path, changed("  url: http://user.base.svc.cluster.local:7000/", "  url:\n    - one of many\n    - two"))
    assert (problem.line, problem.column, marked(problem)) == (4, 5, "- one of many")


def test_a_target_without_a_port_and_a_path_is_port_80_and_the_root(tmp_path: Path) -> None:
    target = load_plan(write(tmp_path, changed(".local:7000/", ".local"))).scenario.target
    assert (target.port, target.path, target.service) == (80, "/", ("user", "base"))
