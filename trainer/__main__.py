"""`python -m trainer`: the `lazytower` command."""

from trainer.cli import main

if __name__ == "__main__":
    main()
