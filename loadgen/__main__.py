"""Where the command ``loadgen`` begins; ``python -m loadgen`` is the same."""

from __future__ import annotations

import signal


def main() -> None:
    """Run the command line."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing has begun yet: ^C while modules are loaded leaves no traceback
    from loadgen.cli import main as run  # noqa: PLC0415  # that is what takes its time

    run()


if __name__ == "__main__":
    main()
