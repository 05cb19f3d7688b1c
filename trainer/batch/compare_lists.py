"""`lazytower compare-lists`: what changes between two outputs of `lazytower score --what topk`."""


def add_arguments(parser) -> None:
    """Flags of the sub-command."""


def run(args) -> int:
    """Prints the comparison."""
    raise NotImplementedError
