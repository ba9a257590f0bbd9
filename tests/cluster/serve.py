"""``make cluster``: a whole cluster with Istio on this machine, to try and to develop the cluster's side with. It ends with ^C, and leaves nothing.

Every image is the one that ``docker/Dockerfile`` makes of this checkout, whatever it is called.
"""

from __future__ import annotations

import signal
import sys

from loadgen.errors import LoadgenError
from tests.cluster.controlplane import machine
from tests.cluster.controlplane.cluster import Cluster
from tests.cluster.controlplane.credentials import ADMIN
from tests.cluster.image import build_image
from tests.cluster.tutorial import EveryImage

_READY = """\
The cluster is there until you press ^C. In another terminal:

  . .venv/bin/activate
  export KUBECONFIG={kubeconfig}
  loadgen manifests --toggle-in-base | kubectl apply -f -
  loadgen plan scenarios/connection-pool.yaml --mesh cluster

docs/cluster.md goes on from there. "kubectl logs" works, "kubectl exec" and "--follow" do not; the logs are in {pods}.
"""


def main() -> int:
    """Serve until ^C or SIGTERM. Raises nothing: what the machine lacks is said, with exit code 3."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        machine.install_missing()
        print("building the image ...", flush=True)
        image = build_image()
        print("starting etcd, kube-apiserver, kube-controller-manager, istiod ...", flush=True)
        with Cluster(EveryImage(image)) as cluster:
            plane = cluster.plane
            print(_READY.format(kubeconfig=plane.kubeconfig(ADMIN), pods=plane.folder / "pods"), flush=True)
            signal.pause()
    except LoadgenError as error:
        print(f"{error.message}; {error.hint}" if error.hint else error.message, file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("the cluster is gone")
    return 0


if __name__ == "__main__":
    sys.exit(main())
