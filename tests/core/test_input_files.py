"""Is every file that is no scenario or no rule refused quickly, with one sentence, and nothing but an InputError?"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from loadgen.document import MAX_CHARACTERS, MAX_DEPTH, MAX_VALUES, parse_documents
from loadgen.errors import MAX_PROBLEMS, InputError, Severity
from loadgen.inputs import load_plan, load_rules
from loadgen.policy.limits import Limits
from loadgen.policy.translation import cluster_name, clusters

from .examples import RULE, SCENARIO, changed, marked, mistakes, mistakes_of, write

SCENARIOS = Path(__file__).parents[2] / "scenarios"
BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{n}: &{n} [{', '.join(['*' + p] * 9)}]\n" for p, n in zip("abcdefg", "bcdefgh", strict=True)
)
SPREAD = "&a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1], &b [*a, *a, *a, *a, *a, *a], &c [*b, *b, *b, *b, *b, *b, *b, *b]"

# text, line, column, code, a part of the message
TEXTS = [
    ("", 0, 0, "empty", "the file is empty"),
    ("# nothing\n---\n---\n", 0, 0, "empty", "the file is empty"),
    ("null\n", 0, 0, "empty", "the file is empty"),
    (f"{SCENARIO}---\n{SCENARIO}", 32, 1, "documents", "a scenario file holds one document"),
    (changed("  count: 10", "\tcount: 10"), 8, 1, "tab", "a tab cannot indent YAML"),
    (changed("  count: 10", "  \tcount: 10"), 8, 3, "tab", "a tab cannot indent YAML"),
    (changed("body: Kevin", 'body: "Kevin'), 6, 11, "not-yaml", "found unexpected end of stream while scanning a quoted scalar"),
    (changed("namespace: test", "labels: {app: a"), 10, 5, "not-yaml", "did not find expected ',' or '}' while parsing a flow mapping"),
    ("phases: [", 1, 9, "not-yaml", "did not find expected node content"),
    (changed("clients:\n", "clients\n"), 7, 1, "not-yaml", "could not find expected ':'"),
    (changed("url: http", "url http"), 4, 9, "not-yaml", "mapping values are not allowed in this context"),
    (changed("count: 10", "count: *ten"), 8, 10, "not-yaml", "found undefined alias"),
    (changed("count: 10", "count: !e!ten 10"), 8, 10, "not-yaml", "found undefined tag handle"),
    ("%YAML 3.0\n---\na: b\n", 1, 1, "not-yaml", "found incompatible YAML document"),
    (changed("Kevin", "Ke\avin"), 6, 13, "not-yaml", "the control character U+0007"),
    (f"{SCENARIO}\0", 31, 1, "not-yaml", "the control character U+0000"),
    (changed("Kevin", "Kevin\u2028\x7f"), 7, 1, "not-yaml", "the control character U+007F"),
    (changed("count: 10", "count: !!int 10"), 8, 10, "tag", "the tag !!int is not allowed"),
    (changed("count: 10", "count: !ten 10"), 8, 10, "tag", "the tag !ten is not allowed"),
    (changed("clients:\n", "clients: !!omap\n"), 7, 10, "tag", "the tag !!omap is not allowed"),
    (changed("body: Kevin", "body: !!python/object/apply:os.system [id]"), 6, 11, "tag", "the tag !!python/object/apply:os.system is not allowed"),
    (f"{SCENARIO}name: b\n", 31, 1, "duplicate-key", "the key 'name' stands twice in the same mapping"),
    (changed("count: 10", "count: 10\n  count: 10"), 9, 3, "duplicate-key", "the key 'count' stands twice in the same mapping"),
    (f"{SCENARIO}? [a, b]\n: c\n", 31, 3, "key", "a key must be a plain word, not a list or a mapping"),
    (f"{SCENARIO}? {{a: b}}\n: c\n", 31, 3, "key", "a key must be a plain word, not a list or a mapping"),
    (BOMB, 1, 8, "bomb", f"the file holds more than {MAX_VALUES:,} values"),
    ("".join(f"k{n}: 1\n" for n in range(MAX_VALUES)), MAX_VALUES, 9, "bomb", f"the file holds more than {MAX_VALUES:,} values"),
    (f"---\n[{SPREAD}]\n" * 2000, 0, 0, "bomb", f"the file holds more than {MAX_VALUES:,} values"),
    ("a: &a [*a]\n", 1, 4, "bomb", "an alias contains itself"),
    ("&a\nb: *a\n", 1, 1, "bomb", "an alias contains itself"),
    ("[" * 100_000, 1, MAX_DEPTH + 1, "too-deep", f"nested more than {MAX_DEPTH} levels deep"),
    ("{a: " * 100_000, 1, 4 * MAX_DEPTH + 1, "too-deep", f"nested more than {MAX_DEPTH} levels deep"),
    ("- " * 100_000, 1, 2 * MAX_DEPTH + 1, "too-deep", f"nested more than {MAX_DEPTH} levels deep"),
    ("? " * 100_000, 1, 2 * MAX_DEPTH + 1, "too-deep", f"nested more than {MAX_DEPTH} levels deep"),
    ("".join(f"{' ' * n}a:\n" for n in range(70)), 65, 65, "too-deep", f"nested more than {MAX_DEPTH} levels deep"),
    (SCENARIO + "#" * 10_000_000, 0, 0, "too-large", f"the file is larger than {MAX_CHARACTERS:,} bytes"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "line", "column", "code", "message"), TEXTS, ids=lambda value: value[-40:] if isinstance(value, str) else None
)
def test_a_text_that_is_no_scenario_is_refused_with_its_place_and_a_remedy(
    tmp_path: Path, text: str, line: int, column: int, code: str, message: str
) -> None:
    found = [problem for problem in mistakes(tmp_path, text) if problem.code == code]
    assert len(found) == 1
    assert message in found[0].message
    assert (found[0].line, found[0].column) == (line, column) or not line
    assert found[0].hint or code == "key"
    assert found[0].excerpt or not line or code in {"bomb", "empty", "too-large"}


BYTES = [
    (b"\xff\xfe" + SCENARIO.encode("utf-16-le"), 1, 1),
    (changed("Kevin", "K\u00e9vin").encode("latin-1"), 6, 12),
    (changed("Kevin", "\u20ac\u20ac K\u00e9vin").encode("utf-8").replace("\u00e9".encode(), b"\xe9"), 6, 15),
    (SCENARIO.encode() + b"\xff", 31, 1),
    (SCENARIO.encode() + b"\xe2\x82", 31, 1),
]


@pytest.mark.parametrize(("data", "line", "column"), BYTES)
def test_bytes_that_are_no_utf_8_are_shown_where_they_stand(tmp_path: Path, data: bytes, line: int, column: int) -> None:
    (problem,) = mistakes(tmp_path, data)
    assert (problem.line, problem.column, problem.message, problem.hint) == (line, column, "the file is not UTF-8 text", "save it as UTF-8")
    assert marked(problem) == "\ufffd"


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbf" + SCENARIO.encode(),
        SCENARIO.replace("\n", "\r\n").encode(),
        b"\xef\xbb\xbf" + SCENARIO.replace("\n", "\r\n").encode(),
        f"---\n{SCENARIO}...\n".encode(),
        f"%YAML 1.2\n---\n{SCENARIO}---\n".encode(),
        changed("users: 5", "users: &n 5", changed("count: 10", "count: 5")).encode(),
        changed("time: exponential 20ms", "time: *t", changed("think_time: e", "think_time: &t e")).encode(),
        changed("count: 10", "count:\t10").encode(),
        (SCENARIO + "#" * (MAX_CHARACTERS - len(SCENARIO))).encode(),
    ],
    ids=["BOM", "CRLF", "BOM and CRLF", "markers", "directive", "anchor", "alias", "tab after a colon", "largest"],
)
def test_what_editors_do_to_a_file_makes_no_difference(tmp_path: Path, data: bytes) -> None:
    scenario = load_plan(write(tmp_path, data)).scenario
    assert (scenario.name, scenario.phases[2].duration) == ("connection-pool", 9.0)


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_a_place_is_right_whatever_the_line_endings_are(tmp_path: Path, start: str, ending: str) -> None:
    (problem,) = mistakes(tmp_path, start + changed("count: 10", "count: 0").replace("\n", ending))
    assert (problem.line, problem.column, problem.excerpt) == (8, 10, "  count: 0")


def test_a_place_in_the_first_line_does_not_count_the_byte_order_mark(tmp_path: Path) -> None:
    problem = mistakes(tmp_path, "\ufeff" + changed("name", "nam"))[1]
    assert (problem.line, problem.column, marked(problem)) == (1, 1, "nam")


def test_of_two_equal_keys_the_first_one_is_judged_and_shown(tmp_path: Path) -> None:
    found = mistakes(tmp_path, changed("count: 10", "count: 0\n  count: 5"))
    assert [(each.line, each.message) for each in found] == [
        (8, "count must be at least 1, not 0"),
        (9, "the key 'count' stands twice in the same mapping"),
    ]
    assert found[1].hint == "the first one is in line 8; keep one of them"


def test_a_flood_of_mistakes_ends_after_the_first_hundred(tmp_path: Path) -> None:
    keys = "".join(f"k{n}: 1\n" for n in range(20_000))
    assert len(mistakes(tmp_path, SCENARIO + keys)) == MAX_PROBLEMS
    assert len(mistakes(tmp_path, SCENARIO + "".join(f"  k{n}: 1\n" for n in range(20_000)))) == MAX_PROBLEMS


# Paths.


def test_a_scenario_that_does_not_exist_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    path = write(tmp_path, SCENARIO)
    (problem,) = mistakes_of(path.with_name("scenaro.yaml"))
    assert (problem.file, problem.line, problem.message) == (str(tmp_path / "scenaro.yaml"), 0, "there is no such file")
    assert problem.hint == f"did you mean 'scenario.yaml'? in {tmp_path} there are: scenario.yaml"


def test_a_policy_that_does_not_exist_is_shown_where_it_is_named(tmp_path: Path) -> None:
    (problem,) = mistakes(tmp_path, changed("policies/user.yaml", "policies/usr.yaml"))
    assert (problem.file, problem.line, problem.column) == (str(tmp_path / "scenario.yaml"), 16, 9)
    assert (marked(problem), problem.message) == ("policies/usr.yaml", f"{tmp_path}/policies/usr.yaml: there is no such file"[-222:])
    assert problem.hint == f"did you mean 'user.yaml'? in {tmp_path}/policies there are: user.yaml"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("policies", "this is not a regular file"),
        ("/dev/zero", "this is not a regular file"),
        ("policies/user.yaml/a", "the file cannot be read: Not a directory"),
        ("a" * 5000, "the file cannot be read: File name too long"),
        ('"a\\0b"', "the file cannot be read: embedded null byte"),
        ("nowhere/user.yaml", "there is no such file"),
    ],
    ids=lambda value: value[:20],
)
def test_a_policy_that_cannot_be_read_is_shown_where_it_is_named(tmp_path: Path, name: str, message: str) -> None:
    (problem,) = mistakes(tmp_path, changed("policies/user.yaml", name))
    assert (problem.line, problem.column, marked(problem)) == (16, 9, name)
    assert problem.message.endswith(message)


def test_a_folder_is_no_scenario(tmp_path: Path) -> None:
    assert [(each.code, each.hint) for each in mistakes_of(tmp_path)] == [("not-a-file", "name a YAML file")]


def test_a_named_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    pipe = tmp_path / "scenario.yaml"
    os.mkfifo(pipe)
    assert [each.code for each in mistakes_of(pipe)] == ["not-a-file"]


def test_a_policy_that_is_a_named_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    path = write(tmp_path, changed("user.yaml", "pipe.yaml"))
    os.mkfifo(tmp_path / "policies" / "pipe.yaml")
    assert [(each.code, each.line, each.column) for each in mistakes_of(path)] == [("not-a-file", 16, 9)]


def test_a_link_that_leads_nowhere_or_to_itself_is_refused(tmp_path: Path) -> None:
    for name, target in (("a.yaml", "b.yaml"), ("c.yaml", "c.yaml")):
        (tmp_path / name).symlink_to(target)
    assert [each.code for name in ("a.yaml", "c.yaml") for each in mistakes_of(tmp_path / name)] == ["missing-file", "unreadable"]


# What a policy file may hold.

POLICIES: list[tuple[str | bytes, int, str]] = [
    ("", 0, "the file holds no DestinationRule"),
    ("a: [\n", 1, "the file is not YAML: did not find expected node content while parsing a flow node"),
    ("kind: Service\n", 1, "kind is 'Service', expected 'DestinationRule'"),
    ("- 1\n", 1, "this is a list, expected a DestinationRule"),
    (b"\xff", 1, "the file is not UTF-8 text"),
    ("[" * 100_000, 1, f"the values are nested more than {MAX_DEPTH} levels deep"),
    (BOMB, 1, f"the file holds more than {MAX_VALUES:,} values, its aliases written out"),
    (RULE.replace("http2MaxRequests: 5", "http2MaxRequests: 2147483648"), 11, "http2MaxRequests: must be at most 2147483647"),
    (RULE.replace("http2MaxRequests: 5", "http2MaxRequests: '5'"), 11, "http2MaxRequests: must be a number without quotes: write 5"),
    (RULE.replace("http2MaxRequests", "http2MaxRequest"), 11, "unknown key 'http2MaxRequest'"),
    (RULE.replace("    connectionPool:", "    connectionpool:"), 9, "unknown key 'connectionpool'"),
]


@pytest.mark.parametrize(("rule", "line", "message"), POLICIES, ids=lambda value: str(value)[:40])
def test_a_mistake_in_the_policy_file_is_shown_in_that_file(tmp_path: Path, rule: str | bytes, line: int, message: str) -> None:
    (problem,) = mistakes(tmp_path, SCENARIO, rule)
    place = (tmp_path / "policies" / "user.yaml", line) if line or rule == "" else (tmp_path / "scenario.yaml", 16)
    assert (Path(problem.file), problem.line) == place
    assert problem.message.startswith(message)


def test_a_policy_file_that_is_too_large_is_shown_where_it_is_named(tmp_path: Path) -> None:
    (problem,) = mistakes(tmp_path, SCENARIO, "a" * 10_000_000)
    assert (problem.line, problem.column, problem.code) == (16, 9, "too-large")


def test_a_policy_file_may_hold_several_rules(tmp_path: Path) -> None:
    plan = load_plan(write(tmp_path, SCENARIO, f"{RULE}---\n{RULE.replace('  name: user', '  name: other')}"))
    assert [rule.key for rule in plan.rules] == ["base/user", "base/other"]


def test_what_a_rule_says_in_vain_is_a_finding_and_no_mistake(tmp_path: Path) -> None:
    plan = load_plan(write(tmp_path, SCENARIO, RULE.replace("host: user", "host: usr")))
    assert [(each.severity, each.code, each.line) for each in plan.findings] == [(Severity.WARNING, "host-misspelt", 7)]


def test_findings_stand_beside_the_mistakes_and_do_not_count_as_mistakes(tmp_path: Path) -> None:
    path = write(tmp_path, changed("count: 10", "count: 0"), RULE.replace("    connectionPool:", "    tls: {}\n    connectionPool:"))
    with pytest.raises(InputError, match=r"^1 mistake found; nothing was started or changed$"):
        load_plan(path)


def test_a_rule_alone_is_read_with_its_mistakes_and_its_warnings(tmp_path: Path) -> None:
    policy = write(tmp_path, SCENARIO).parent / "policies" / "user.yaml"
    rules, problems = load_rules(policy)
    assert ([rule.key for rule in rules], problems) == (["base/user"], [])
    policy.write_text("kind: Service\n")
    with pytest.raises(InputError):
        load_rules(policy)


@pytest.mark.parametrize("path", sorted(SCENARIOS.glob("*.yaml")), ids=lambda path: path.name)
def test_the_scenarios_that_come_with_the_project_have_no_mistakes(path: Path) -> None:
    plan = load_plan(path)
    assert plan.scenario.name == path.stem
    assert [each.code for each in plan.findings] == (["host-misspelt"] if "wrong-host" in path.name else [])


# Plain values, as YAML 1.2's core schema reads them.

SCALARS: list[tuple[str, object]] = [
    ("on", "on"), ("yes", "yes"), ("1:30", "1:30"), ("2026-01-01", "2026-01-01"), ("1_000", "1_000"), ("~", None), ("", None),
    ("true", True), ("False", False), ("tRue", "tRue"), ("0x1F", 31), ("0o17", 15), ("017", 17), ("-1", -1), ("+1", 1), ("1e3", 1000.0),
    (".5", 0.5), ("5.", 5.0), ("-.inf", float("-inf")), (".INF", float("inf")), ("'1'", "1"), ('"~"', "~"), ("|\n  1\n", "1\n"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "value"), SCALARS, ids=[text for text, _ in SCALARS])
def test_a_plain_value_is_read_as_yaml_1_2_reads_it(text: str, value: object) -> None:
    read = parse_documents(f"a: {text}", "a.yaml")[0].data["a"]
    assert (type(read), read) == (type(value), value)


@pytest.mark.parametrize("text", ["!!str 5", "!!str yes", "!!str ~", "!!str"])
def test_a_value_with_the_tag_of_text_is_text(text: str) -> None:
    assert parse_documents(f"a: {text}", "a.yaml")[0].data["a"] == text.removeprefix("!!str").strip()


# Merge keys, as sigs.k8s.io/yaml writes them out.

ANCHORS = "p: &p {m: 5}\nq: &q {m: 6, n: 7}\n"
MERGES: list[tuple[str, object]] = [
    ("{<<: *p, h: 1}", {"m": 5, "h": 1}),
    ("{<<: *p, m: 1}", {"m": 1}),
    ("{h: 1, <<: *p}", {"h": 1, "m": 5}),
    ("{<<: [*p, *q], h: 1}", {"m": 5, "n": 7, "h": 1}),
    ("{<<: {<<: {a: 1}, b: 2}}", {"a": 1, "b": 2}),
    ("{'<<': 1}", {"<<": 1}),
    ('{"<<": {a: 1}}', {"<<": {"a": 1}}),
    ("{<<: []}", {}),
]


@pytest.mark.parametrize(("text", "value"), MERGES, ids=[text for text, _ in MERGES])
def test_a_merge_key_is_written_out(text: str, value: object) -> None:
    (document,) = parse_documents(f"{ANCHORS}a: {text}\n", "a.yaml")
    assert (document.data["a"], document.problems) == (value, [])


def test_a_value_that_a_merge_key_brings_is_found_where_it_stands() -> None:
    (document,) = parse_documents(f"{ANCHORS}a: {{<<: *q}}\nb: {{<<: *q}}\n", "a.yaml")
    assert [(each.line, each.column) for each in (document.problem((name, "n"), "") for name in "ab")] == [(2, 17), (2, 17)]


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("a: {m: 1, <<: *p}", "merge", "it is not clear whether the key 'm' above or the one of << counts"),
        ("a: {<<: *p, <<: *q}", "duplicate-key", "the key '<<' stands twice in the same mapping"),
        ("a: {<<: 5}", "merge", "a merge key takes a mapping, or a list of mappings"),
        ("a: {<<: }", "merge", "a merge key takes a mapping, or a list of mappings"),
        ("a: {<<: [[*p]]}", "merge", "a merge key takes a mapping, or a list of mappings"),
        ("a: {<<: !foo {b: 1}}", "tag", "the tag !foo is not allowed"),
        ("a: {<<: {? [b] : 1}}", "key", "a key must be a plain word, not a list or a mapping"),
    ],
)
def test_a_merge_key_that_is_not_clear_is_a_mistake(text: str, code: str, message: str) -> None:
    (document,) = parse_documents(f"{ANCHORS}{text}\n", "a.yaml")
    assert [(each.code, each.message, each.line) for each in document.problems] == [(code, message, 3)]


@pytest.mark.parametrize(
    "text",
    [
        "a: &a {<<: *a}\n",
        "a: &a {<<: [*a, *a]}\n",
        f"b: &b {{{', '.join(f'k{n}: 1' for n in range(500))}}}\n" + "".join(f"c{n}: {{<<: *b}}\n" for n in range(100)),
        "? [&a0 {k: 1}, " + ", ".join(f"&a{n} {{<<: *a{n - 1}}}" for n in range(1, 3000)) + "]\n: 1\nb: *a2999\n",
    ],
    ids=["itself", "itself twice", "many keys", "a long chain"],
)
def test_merge_keys_that_expand_too_far_are_refused(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_documents(text, "a.yaml")
    assert [each.code for each in caught.value.problems] == ["bomb"]


def test_a_merge_key_serves_in_a_scenario_and_in_a_rule(tmp_path: Path) -> None:
    rule = RULE.replace("    connectionPool:", "    connectionPool: &pool").replace("http2MaxRequests: 5", "http2MaxRequests: 010")
    plan = load_plan(write(tmp_path, changed("namespace: test", "<<: {namespace: test}"), rule))
    assert plan.scenario.clients.namespace == "test"
    made = clusters(plan.rules, plan.service, plan.client)[cluster_name(plan.service, plan.scenario.target.port)]
    assert Limits.of_cluster(made).in_force() == {"http2MaxRequests": 8}


def test_not_a_number_is_read_as_that() -> None:
    read = parse_documents("[.nan, .NaN, .NAN]", "a.yaml")[0].data
    assert [value != value for value in read] == [True] * 3  # noqa: PLR0124  # that is what makes it no number


def test_a_text_handed_over_directly_has_the_same_limit_of_size() -> None:
    with pytest.raises(InputError) as caught:
        parse_documents("#" * (MAX_CHARACTERS + 1), "a.yaml")
    assert caught.value.problems[0].code == "too-large"
