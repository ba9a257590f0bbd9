"""Which files did the user name, and what do they say together? Reads the scenario and its rules, and gives all mistakes of both at once."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pydantic import ValidationError

from loadgen.document import MAX_CHARACTERS, parse_documents
from loadgen.errors import InputError, Problem, Severity, UsageError
from loadgen.plain import core_value, kubectl_value
from loadgen.policy.lint import lint
from loadgen.policy.rule import parse_rules
from loadgen.policy.selection import Service, Workload, select
from loadgen.policy.translation import effective_policy
from loadgen.reach import Surroundings, ejects_service, unfit
from loadgen.scenario import Overrides
from loadgen.scenario_file import parse_scenario
from loadgen.schema import sentence

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from loadgen.document import Document
    from loadgen.policy.rule import Rule
    from loadgen.scenario import Scenario


PATH_CHARACTERS = 200
"""How much of a path a message repeats, from its end."""
NEIGHBOURS = 10
"""How many files of a folder a hint names."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that a run needs to know from its files. ``findings`` are warnings: the run goes on with them.

    ``in_cluster`` says that it is for a cluster, whose service and sidecars are what they are, whatever the scenario says.
    """

    scenario: Scenario
    rules: tuple[Rule, ...]
    findings: tuple[Problem, ...] = ()
    in_cluster: bool = False

    @property
    def service(self) -> Service:
        """The target, as Istio's registry knows it."""
        name, namespace = self.scenario.target.service
        return Service(name, namespace, (self.scenario.target.port,))

    @property
    def client(self) -> Workload:
        """A client, as Istio selects rules for it."""
        return Workload(self.scenario.clients.namespace, dict(self.scenario.clients.labels))

    @property
    def speaks_http2(self) -> bool:
        """Whether the rules make the clients' sidecars speak HTTP/2 to the service: then one connection carries everything."""
        pool = effective_policy(select(self.rules, self.service, self.client), self.scenario.target.port).connection_pool
        return pool is not None and pool.http is not None and pool.http.h2_upgrade_policy == "UPGRADE"

    @property
    def ejects_service(self) -> bool:
        """Whether the rules eject the service for what the scenario has it answer."""
        return ejects_service(self.scenario, self.rules, self.service, self.client, self.surroundings)

    @property
    def surroundings(self) -> Surroundings:
        """What is around load and limits."""
        return Surroundings(http2=self.speaks_http2, in_cluster=self.in_cluster)


def load_plan(path: Path, *, in_cluster: bool = False) -> Plan:
    """Read a scenario file and the policy file that it names.

    Raises InputError with every mistake of both files.
    """
    document = _single(read_documents(path), path)
    scenario, problems = parse_scenario(document)
    rules: list[Rule] = []
    policy = document.data.get("policy") if isinstance(document.data, dict) else None
    if isinstance(policy, str) and policy:
        try:
            rules, found = read_rules(path.parent / policy)
        except InputError as error:
            found = [_at_reference(document, problem) for problem in error.problems]
        problems += found
    _raise_errors(problems)
    assert scenario is not None, "a scenario without problems is valid"
    plan = Plan(scenario, tuple(rules), in_cluster=in_cluster)
    workers = None if in_cluster else scenario.clients.workers
    findings = (*problems, *lint(plan.rules, plan.service, plan.client, workers=workers))
    return replace(plan, findings=tuple(dict.fromkeys(findings)))  # what the reader and the lint both say is said once


def overridden(plan: Plan, options: Mapping[str, object]) -> Plan:
    """Put command line options in the place of the scenario's values, and add what is questionable in how load and rules go together.

    Raises UsageError if an option is out of range or does not fit the scenario.
    """
    try:
        scenario = plan.scenario.overridden(Overrides.model_validate(dict(options)))
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        raise UsageError(sentence(detail, f"--{detail['loc'][-1]}")) from error
    except ValueError as error:
        raise UsageError(str(error)) from error
    found = unfit(scenario, plan.rules, plan.service, plan.client, plan.surroundings)
    return replace(plan, scenario=scenario, findings=tuple(dict.fromkeys((*plan.findings, *found))))


def load_rules(path: Path) -> tuple[list[Rule], list[Problem]]:
    """Read a policy file on its own; gives the rules and the warnings.

    Raises InputError with every mistake.
    """
    rules, problems = read_rules(path)
    _raise_errors(problems)
    return rules, problems


def rules_of(text: str, file: str) -> tuple[list[Rule], list[Problem]]:
    """Read rules from a text that somebody calls ``file``; gives them and the warnings.

    Raises InputError with every mistake.
    """
    rules, problems = parse_rules(parse_documents(text, file, plain=kubectl_value), file)
    _raise_errors(problems)
    return rules, problems


def read_rules(path: Path) -> tuple[list[Rule], list[Problem]]:
    """Read every rule of a policy file; mistakes inside a readable file are returned, not raised."""
    return parse_rules(read_documents(path, plain=kubectl_value), str(path))


def read_documents(path: Path, *, plain: Callable[[str], object] = core_value) -> list[Document]:
    """Read a YAML file; ``plain`` says what a scalar without quotes stands for.

    Raises InputError if it is missing, no regular file, too large, not UTF-8 or no YAML.
    """
    return parse_documents(_read_text(path), str(path), plain=plain)


def _read_text(path: Path) -> str:
    try:
        if path.exists() and not path.is_file():
            raise InputError([Problem(str(path), 0, 0, "this is not a regular file", "name a YAML file", "not-a-file")])
        with path.open("rb") as file:
            data = file.read(MAX_CHARACTERS + 1)
    except FileNotFoundError as error:
        raise InputError([Problem(str(path), 0, 0, "there is no such file", _nearest_file(path), "missing-file")]) from error
    except (OSError, ValueError) as error:
        raise InputError(
            [Problem(str(path), 0, 0, f"the file cannot be read: {getattr(error, 'strerror', None) or error}", code="unreadable")]
        ) from error
    if len(data) > MAX_CHARACTERS:
        raise InputError(
            [
                Problem(
                    str(path), 0, 0, f"the file is larger than {MAX_CHARACTERS:,} bytes", "no scenario and no rule needs that", "too-large"
                )
            ]
        )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        *before, rest = data[: error.start].decode("utf-8").split("\n")
        excerpt = data[error.start - len(rest.encode()) :].partition(b"\n")[0].decode("utf-8", "replace")
        raise InputError(
            [
                Problem(
                    str(path), len(before) + 1, len(rest) + 1, "the file is not UTF-8 text", "save it as UTF-8", "not-utf8", excerpt=excerpt
                )
            ]
        ) from error


def _nearest_file(path: Path) -> str:
    if not path.parent.is_dir():
        return f"there is no folder {path.parent} either"
    neighbours = sorted(each.name for each in path.parent.glob("*.y*ml"))
    near = difflib.get_close_matches(path.name, neighbours, n=1)
    listing = f"in {path.parent} there are: {', '.join(neighbours[:NEIGHBOURS])}" if neighbours else f"{path.parent} holds no YAML file"
    return f"did you mean '{near[0]}'? {listing}" if near else listing


def _single(documents: Sequence[Document], path: Path) -> Document:
    if not documents:
        raise InputError(
            [
                Problem(
                    str(path),
                    0,
                    0,
                    "the file is empty",
                    "a scenario has at least name, target, load and phases; see scenarios/connection-pool.yaml",
                    "empty",
                )
            ]
        )
    if len(documents) > 1:
        raise InputError(
            [documents[1].problem([], "a scenario file holds one document", hint="take out the '---' and what follows", code="documents")]
        )
    return documents[0]


def _at_reference(document: Document, problem: Problem) -> Problem:
    """Show a policy file that cannot be read at the place that names it; mistakes inside it keep their own place."""
    if problem.line:
        return problem
    return document.problem(["policy"], f"{problem.file[-PATH_CHARACTERS:]}: {problem.message}", hint=problem.hint, code=problem.code)


def _raise_errors(problems: Sequence[Problem]) -> None:
    if any(problem.severity is Severity.ERROR for problem in problems):
        raise InputError(problems)
