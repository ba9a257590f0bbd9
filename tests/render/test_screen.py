"""What is said of the mesh and of a phase while a run goes on?"""

from __future__ import annotations

import pytest

from loadgen.render.screen import Screen


@pytest.mark.parametrize(
    ("convergence_s", "said"),
    [
        ((0.004,), "--- recovered: policy removed, gone from the sidecar after 4 ms"),
        ((0.0091, 0.0092), "--- recovered: policy removed, gone from all 2 sidecars after 9 ms"),
        ((0.024, 0.009), "--- recovered: policy removed, gone from all 2 sidecars after 9 to 24 ms"),
    ],
)
def test_one_sidecar_is_not_said_to_be_all(convergence_s: tuple[float, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with Screen(quiet=False) as screen:
        screen.phase_began("recovered", "removed", None, convergence_s)
    assert capsys.readouterr().err == f"{said}\n"


@pytest.mark.parametrize(
    ("clients", "said"), [(1, "The sidecar and the user service are up"), (2, "2 sidecars and the user service are up")]
)
def test_the_sidecars_are_counted_where_there_are_several(clients: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with Screen(quiet=False) as screen:
        screen.ready(clients, 0.5, 1)
    assert capsys.readouterr().err == f"{said}; first request after 0.50 s\n"
