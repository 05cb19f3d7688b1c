"""`lazytower export`: a verified SavedModel of the best or newest checkpoint."""

from configs.arguments import add_config_arguments, add_step_argument
from configs.load import load_config
from trainer.serving.export import export


def add_arguments(parser) -> None:
    """Flags of the sub-command."""
    add_config_arguments(parser)
    add_step_argument(parser)


def run(args) -> int:
    """Exports and prints the version's directory."""
    print(export(load_config(args.config, args.overrides), args.step))
    return 0
