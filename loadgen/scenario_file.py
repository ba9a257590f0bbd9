"""What is wrong with a scenario file? Every mistake at its place: those of the text, of single values, and of how they fit together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from loadgen.errors import MAX_PROBLEMS
from loadgen.expectation import RUN, parse_expectation
from loadgen.scenario import MAX_PHASES, Scenario, listed
from loadgen.schema import nearest, shown, validate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from loadgen.document import Document
    from loadgen.errors import Problem


def parse_scenario(document: Document) -> tuple[Scenario | None, list[Problem]]:
    """Read a scenario and find every mistake in it: those of the text, of single values, and of how they fit together."""
    scenario, problems = validate(Scenario, document)
    problems = [*document.problems, *problems]
    if isinstance(document.data, dict):
        problems += _phase_problems(document, document.data.get("phases"))
        problems += _expectation_problems(document, document.data)
        if document.data.get("policy") is None:
            problems += _missing_policy(document, document.data.get("phases"))
    return (None if problems else scenario), sorted(problems, key=lambda problem: (problem.line, problem.column))


def _phases(value: object) -> list[tuple[int, dict[str, Any]]]:
    return [(index, phase) for index, phase in enumerate(value) if isinstance(phase, dict)] if isinstance(value, list) else []


def _phase_problems(document: Document, value: object) -> list[Problem]:
    return [*_name_problems(document, value), *_order_problems(document, value)]


def _name_problems(document: Document, value: object) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for index, phase in _phases(value):
        path: list[str | int] = ["phases", index, "name"]
        name = phase.get("name")
        if not isinstance(name, str):
            continue
        if name in first:
            hint = f"phase {first[name] + 1} has it already; each result needs a name of its own"
            yield document.problem(path, f"the phase name '{name}' is used twice", hint=hint, code="duplicate-phase")
        if name == RUN:
            hint = f"under expectations, '{RUN}' means the run as a whole"
            yield document.problem(path, f"a phase cannot be called '{RUN}'", hint=hint, code="reserved-name")
        first.setdefault(name, index)


def _order_problems(document: Document, value: object) -> Iterator[Problem]:
    applied = False
    for index, phase in _phases(value):
        path: list[str | int] = ["phases", index, "policy"]
        policy = phase.get("policy")
        if policy == "removed" and not applied:
            hint = "use absent, or put a phase with policy: applied before this one"
            yield document.problem(path, "the policy cannot be removed before it was applied", hint=hint, code="phase-order")
        if policy == "absent" and applied:
            yield document.problem(
                path, "the policy was applied before; it can only be removed now", hint="use removed", code="phase-order"
            )
        applied = applied or policy == "applied"


def _missing_policy(document: Document, phases: object) -> list[Problem]:
    for index, phase in _phases(phases):
        if phase.get("policy") == "applied":
            return [
                document.problem(
                    ["phases", index, "policy"],
                    "the phase applies a policy, but the scenario names none",
                    hint="add 'policy: policies/user.yaml' at the top level",
                    code="missing-key",
                )
            ]
    return []


def _expectation_problems(document: Document, data: dict[str, Any]) -> list[Problem]:
    expectations = data.get("expectations")
    if not isinstance(expectations, dict):
        return []
    names = [*(phase["name"] for _, phase in _phases(data.get("phases")) if isinstance(phase.get("name"), str)), RUN]
    problems: list[Problem] = []
    for phase, texts in expectations.items():
        if len(problems) >= MAX_PROBLEMS:
            break
        if phase not in names:
            problems.append(
                document.problem(
                    ["expectations", phase],
                    f"there is no phase {shown(phase).removeprefix('the text ')}",
                    hint=nearest(phase, names[-MAX_PHASES:]),
                    code="unknown-phase",
                    at_key=True,
                )
            )
            continue
        for index, text in enumerate(listed(texts)[:MAX_PROBLEMS]):
            path: Sequence[str | int] = ["expectations", phase, index] if isinstance(texts, list) else ["expectations", phase]
            try:
                parse_expectation(phase, text)
            except ValueError as error:
                problems.append(document.problem(path, str(error), code="expectation"))
    return problems
