"""``python -m gloss``, and the script `gloss`: the command line as a process of its own."""

import signal


def main() -> None:
    """Run the command line.

    Ctrl-C ends the process at once, without a traceback of what it is just importing. Commands handle it themselves
    while they run (`gloss.cli.session.connected`).
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where the caller wants it ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from gloss.cli import main as commands  # noqa: PLC0415

    commands(prog_name="gloss")


if __name__ == "__main__":
    main()
