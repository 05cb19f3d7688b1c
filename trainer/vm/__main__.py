"""`python -m trainer.vm SPEC`: the program of a job's machine."""

from trainer.vm.program import main

if __name__ == "__main__":
    main()
