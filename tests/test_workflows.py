"""Are the pipelines that we have, and those that people copy, as actionlint likes them, and do their commands exist?"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from loadgen.cli import cli
from tests.core.test_comparison import TEMPLATE, run
from tests.test_compare_command import save

REPOSITORY = Path(__file__).parents[1]
WORKFLOWS = [*(REPOSITORY / ".github" / "workflows").glob("*.yml"), REPOSITORY / "docs" / "ci" / "github-actions.yml"]
PIPELINES = [*WORKFLOWS, REPOSITORY / "docs" / "ci" / "gitlab-ci.yml"]
ACTIONLINT = "github.com/rhysd/actionlint/cmd/actionlint@v1.7.7"


@pytest.fixture(scope="module")
def actionlint() -> Path:
    """Give the linter, built once on a machine."""
    if shutil.which("go") is None:
        pytest.skip("there is no Go on this machine to build actionlint with")
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "loadgen" / "actionlint-v1.7.7"
    program = folder / "actionlint"
    if not program.exists():
        folder.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "GOBIN": str(folder), "GOFLAGS": ""}
        made = subprocess.run(["go", "install", ACTIONLINT], env=environment, capture_output=True, text=True, check=False, timeout=600)
        if made.returncode:
            pytest.skip(f"actionlint cannot be built: {made.stderr.strip()[-300:]}")
    return program


@pytest.mark.timeout(700)
@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_actionlint_has_nothing_to_say(actionlint: Path, workflow: Path) -> None:
    ended = subprocess.run([actionlint, "-no-color", workflow], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_only_read_and_uses_only_githubs_own_actions(workflow: Path) -> None:
    document = yaml.safe_load(workflow.read_text())
    assert document["permissions"] == {"contents": "read"}
    uses = [step["uses"] for job in document["jobs"].values() for step in job["steps"] if "uses" in step]
    assert uses
    assert all(re.fullmatch(r"actions/[a-z/-]+@v\d+", each) for each in uses)


@pytest.mark.parametrize("pipeline", PIPELINES, ids=lambda path: path.name)
def test_every_command_of_a_pipeline_exists_with_its_options(pipeline: Path) -> None:
    commands = [shlex.split(found) for found in re.findall(r"\bloadgen ((?:run|compare|report) [^\n|;&#>]*)", pipeline.read_text())]
    assert {name for name, *_ in commands} >= {"run", "compare", "report"}
    for name, *words in commands:
        known = {option for parameter in cli.commands[name].params for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= known


class Runner:
    """Runs steps of our own workflow as a hosted runner does: the text in its file, with its shell, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.summary = folder / "summary.md"
        document = yaml.safe_load((REPOSITORY / ".github" / "workflows" / "loadgen.yml").read_text())
        job = document["jobs"]["scenario"]
        self.steps = {step["name"]: step["run"] for step in job["steps"] if "run" in step}
        (folder / "bin").mkdir()
        command = folder / "bin" / "loadgen"
        command.write_text(f'#!/bin/sh\nPYTHONPATH={REPOSITORY} exec {sys.executable} -m loadgen "$@"\n')
        command.chmod(0o755)
        self.environment = {
            **os.environ,
            **{name: str(value) for name, value in job["env"].items()},
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "GITHUB_STEP_SUMMARY": str(self.summary),
            "GITHUB_RUN_ID": "7",
        }
        (folder / "results").mkdir()

    def step(self, name: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", self.steps[name]]
        return subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False)


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(tmp_path)


COMPARE, PUT = "Compare with the last runs on main", "Put this run with the last ones on main"


def test_the_first_run_on_main_has_nothing_to_be_compared_with_and_is_kept(runner: Runner) -> None:
    save(runner.folder / "results" / "new", run(1))
    compared = runner.step(COMPARE)
    assert compared.returncode == 0, compared.stderr
    assert compared.stdout == "::notice::there is no run on main to compare with yet\n"
    assert runner.step(PUT).returncode == 0
    assert [folder.name[-2:] for folder in (runner.folder / "results" / "main").iterdir()] == ["-7"]


@pytest.mark.parametrize(("slower", "code", "said"), [(1.0, 0, "No regression beyond 15%."), (2.0, 99, "WORSE: p50 of ok")])
def test_a_later_run_is_compared_with_all_that_were_kept_and_the_summary_shows_it(
    runner: Runner, slower: float, code: int, said: str
) -> None:
    (runner.folder / "results" / "main").mkdir()
    for number in range(3):
        save(runner.folder / "results" / "main" / f"2026010{number}-000000-{number}", run(number))
    save(runner.folder / "results" / "new", run(9, slower=slower))
    compared = runner.step(COMPARE)
    assert compared.returncode == code, compared.stdout + compared.stderr
    assert "Compared: 3 runs of the base, 1 run new" in compared.stdout
    assert said in runner.summary.read_text()


def test_a_scenario_that_was_changed_is_no_failure_and_begins_anew(runner: Runner) -> None:
    (runner.folder / "results" / "main").mkdir()
    save(runner.folder / "results" / "main" / "20260101-000000-1", run(1))
    save(runner.folder / "results" / "new", run(2), scenario=TEMPLATE.scenario.model_copy(update={"clients": 77}))
    compared = runner.step(COMPARE)
    assert compared.returncode == 0, compared.stderr
    assert "::warning::the runs on main are not like this one" in compared.stdout
    assert not (runner.folder / "results" / "main").exists()


@pytest.mark.parametrize(("damaged", "tolerance", "said"), [(True, "15%", "the report is damaged"), (False, "15", "'15' is no percentage")])
def test_a_damaged_base_or_a_mistyped_tolerance_is_a_failure_and_loses_no_run(
    runner: Runner, damaged: bool, tolerance: str, said: str
) -> None:
    (runner.folder / "results" / "main").mkdir()
    base = save(runner.folder / "results" / "main" / "20260101-000000-1", run(1)) / "report.json"
    if damaged:
        base.write_text(base.read_text().replace('"phases"', '"phrases"'))
    save(runner.folder / "results" / "new", run(2))
    runner.environment["TOLERANCE"] = tolerance
    compared = runner.step(COMPARE)
    assert compared.returncode == 2
    assert said in compared.stdout
    assert base.exists()


@pytest.mark.parametrize(("tolerance", "clients", "code"), [("15%", 77, 0), ("15", 77, 2), ("15%", 10, 0)])
@pytest.mark.parametrize("pipeline", ["github-actions.yml", "gitlab-ci.yml"])
def test_a_pipeline_that_people_copy_forgives_another_scenario_and_nothing_else(
    runner: Runner, pipeline: str, tolerance: str, clients: int, code: int
) -> None:
    document = yaml.safe_load((REPOSITORY / "docs" / "ci" / pipeline).read_text())
    if pipeline == "gitlab-ci.yml":
        lines = document["loadgen"]["script"]
        first = next(number for number, line in enumerate(lines) if line.startswith("loadgen compare"))
        base, new, script = "base/results", "results", "\n".join(["code=0", *lines[first:]])
    else:
        steps = {step["name"]: step["run"] for step in document["jobs"]["loadgen"]["steps"] if "run" in step}
        base, new, script = "results/main", "results/new", steps["Compare with the last run on main"]
    (runner.folder / "results").rmdir()
    for folder, seed, wanted in ((new, 2, clients), (base, 1, 10)):
        (runner.folder / folder).parent.mkdir(exist_ok=True)
        save(runner.folder / folder, run(seed), scenario=TEMPLATE.scenario.model_copy(update={"clients": wanted}))
    runner.steps[pipeline] = script
    runner.environment["TOLERANCE"] = tolerance
    compared = runner.step(pipeline)
    assert compared.returncode == code, compared.stdout + compared.stderr


def test_only_the_last_runs_on_main_are_kept(runner: Runner) -> None:
    main = runner.folder / "results" / "main"
    for number in range(6):
        (main / f"2026010{number}-000000-{number}").mkdir(parents=True)
    save(runner.folder / "results" / "new", run(1))
    assert runner.step(PUT).returncode == 0
    kept = sorted(folder.name for folder in main.iterdir())
    assert len(kept) == 5
    assert kept[:4] == [f"2026010{number}-000000-{number}" for number in range(2, 6)]
