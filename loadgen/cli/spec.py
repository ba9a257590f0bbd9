"""Which local mesh does a plan need?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from loadgen.mesh.boot import LocalSpec

if TYPE_CHECKING:
    from loadgen.inputs import Plan


def local_spec(plan: Plan) -> LocalSpec:
    """Say what the local mesh has to be for a plan."""
    scenario = plan.scenario
    return LocalSpec(
        service=plan.service,
        port=scenario.target.port,
        client=plan.client,
        clients=scenario.clients.count,
        workers=scenario.clients.workers,
        status=scenario.service.status or scenario.target.expect.status,
        body=scenario.target.expect.body,
        service_time=scenario.service.time,
        seed=scenario.seed,
    )
