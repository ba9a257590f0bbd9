"""``python -m loadgen`` is the same as the command ``loadgen``."""

from loadgen.cli import main

if __name__ == "__main__":
    main()
