"""`python -m trainer`: the `lazytower` command."""

from lazytower_entry import main

if __name__ == "__main__":
    main()
