"""``python -m gloss``: the command line."""

from gloss.cli import main

if __name__ == "__main__":
    main(prog_name="gloss")
