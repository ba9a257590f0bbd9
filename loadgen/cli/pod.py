"""``loadgen pod``: what the container of a load pod runs. Its settings come from the environment, as a Deployment gives them."""

from __future__ import annotations

import click

from loadgen.errors import ExitCode, RefusedError


@click.command(short_help="Run a load pod: what the container runs.")
def pod() -> int:
    """Call a service of the cluster without pause, serve what was counted, and obey a run that knows the secret, until SIGTERM.

    \b
    POD_NAME, POD_NAMESPACE, REGION    who this pod is
    LOADGEN_TARGET                     whom it calls  [http://user.base:7000/]
    LOADGEN_EXPECT_BODY, _STATUS       the answer that counts as ok  [Kevin, 200]
    LOADGEN_USERS, _THINK_TIME         its own load  [5, exponential 100ms]
    LOADGEN_PORT, _BIND                where it serves: /healthz /readyz /metrics /snapshot /control  [7000, all addresses]
    LOADGEN_SECRET_FILE                file with the secret of /control; without it nobody may use it
    LOADGEN_MAX_USERS, _MAX_RATE       what a run may ask for at most  [50, 500 per second]
    LOADGEN_ADMIN, _CLUSTER            its sidecar's admin interface and name of the target  [127.0.0.1:15000, by the target]
    """  # noqa: D301  # \b is click's mark for text that is not to be wrapped
    import os  # noqa: PLC0415  # --help must not pay for what a pod needs
    import socket  # noqa: PLC0415

    from loadgen.pod.settings import read_settings  # noqa: PLC0415

    settings = read_settings(os.environ, host_name=socket.gethostname())
    try:
        from loadgen.pod.process import run_pod  # noqa: PLC0415
    except ImportError as error:
        raise RefusedError(f"a load pod needs the package {error.name}", hint="pip install 'loadgen[metrics]'") from error
    run_pod(settings)
    return ExitCode.OK
