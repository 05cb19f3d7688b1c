"""`lazytower score`: recommendations for all users, vectors, or predictions of rows, written to files.

lazytower score --config shop.yaml --what topk --k 100 --to outputs/topk
"""

from configs.arguments import add_override_argument
from configs.errors import ConfigError
from trainer.batch.formats import FORMATS
from trainer.batch.request import BatchOptions, check_version, default_shard_rows
from trainer.batch.tables import TABLES
from trainer.serving.client import find_version, read_metadata, version_facts
from trainer.serving.requests import Request, check_request, named_values, split_keys


def add_arguments(parser) -> None:
    """Adds the flags of the sub-command; all others are passed to Apache Beam."""
    parser.add_argument(
        "--model", metavar="DIR", help="export directory, or one version inside it (default: the config's)"
    )
    parser.add_argument("--config", metavar="RUN.yaml", help="the run: its dataset has the users")
    add_override_argument(parser)
    parser.add_argument("--what", choices=sorted(TABLES), required=True, help="what to write")
    parser.add_argument(
        "--to",
        metavar="DIR",
        required=True,
        help="directory of the output, local or gs://, new or empty; or bigquery:PROJECT.DATASET.TABLE",
    )
    parser.add_argument(
        "--staging", metavar="gs://DIR", help="with --to bigquery: directory of the files that are loaded"
    )
    parser.add_argument("--format", choices=list(FORMATS), default="parquet", help="(default: parquet)")
    parser.add_argument(
        "--users",
        metavar="FILE",
        help="keys of the users, one per line or as a column of a Parquet file (default: all of the dataset)",
    )
    parser.add_argument("--k", type=int, help="topk: items per user (default: 10)")
    parser.add_argument(
        "--include_seen", action="store_true", help="topk: do not leave out items that the user has seen"
    )
    parser.add_argument("--exclude", metavar="X,Y", default="", help="topk: keys of items to leave out")
    parser.add_argument(
        "--include", metavar="X,Y", default="", help="topk: keys of the only items that may return"
    )
    parser.add_argument(
        "--where",
        metavar="NAME=V,W",
        action="append",
        default=[],
        help="topk: only items that have one of the values of a categorical feature; repeatable",
    )
    parser.add_argument("--shard_rows", type=int, metavar="N", help="most rows of a file")
    parser.add_argument("--overwrite", action="store_true", help="replace another output at --to")
    parser.add_argument(
        "--runner",
        metavar="NAME",
        help="Apache Beam runner (default: FnApiRunner, on this machine); other flags are passed to Beam; "
        "see docs/prepare.md",
    )


def run(args) -> int:
    """Writes the output of the flags.

    Raises:
      UserError: one line that says what is wrong.
    """
    from pipelines.runners.options import beam_options
    from trainer.batch.job import Scoring, check_target, score
    from trainer.batch.tables.base import table_class
    from trainer.batch.warehouse import warehouse_table

    table = table_class(args.what)
    warehouse = warehouse_table(args.to, args.staging, args.format)
    to = check_target(args.to) if warehouse is None else warehouse.staging
    path = _model(args)
    metadata = _metadata(path, table.family, args.what)
    if args.shard_rows is not None and args.shard_rows < 1:
        raise ConfigError(f"--shard_rows {args.shard_rows}: must be at least 1")
    lists = _list_options(args, metadata) if table.has_lists else _no_list_options(args)
    if table.family == "ranking":
        subject, more = _source(args, metadata)
    else:
        subject = _users(args)
        more = {"shard_rows": args.shard_rows or default_shard_rows(lists.get("k", 0))}
    options = BatchOptions(what=args.what, format=args.format, **lists, **more)
    beam = beam_options(args.runner, args.beam_args, "score")
    if warehouse is not None:
        warehouse.check()
    manifest = score(Scoring(path, metadata, subject, options), to, beam, args.overwrite)
    if warehouse is not None:
        warehouse.load(manifest, again=args.overwrite)
    return 0


def _model(args) -> str:
    """The version's directory."""
    if args.model:
        return find_version(args.model)
    if not args.config:
        raise ConfigError("no model; name a run with --config RUN.yaml, or an export with --model DIR")
    from configs.load import load_config

    return find_version(load_config(args.config, args.overrides).export_path)


def _metadata(path: str, family: str, what: str) -> dict:
    """lazytower.json, of a model that can be asked so."""
    from trainer.batch.tables.base import table_class

    found = version_facts(path).get("family", family)
    if found != family:
        others = [name for name in TABLES if table_class(name).family == found]
        raise ConfigError(f"--what {what}: {path} is a {found} model; use --what {' or '.join(others)}")
    metadata = read_metadata(path, family)
    if family == "retrieval":
        check_version(path)
    return metadata


def _users(args):
    """Whom to score."""
    from configs.load import load_config
    from configs.manifest import load_dataset
    from trainer.batch.user_keys import ScoredUsers

    if args.users is not None:
        return ScoredUsers(None, args.users)
    if not args.config:
        raise ConfigError("--model has no list of users; name some with --users, or the run with --config")
    return ScoredUsers(load_dataset(load_config(args.config, args.overrides).dataset.path))


def _source(args, metadata: dict) -> tuple:
    """The rows to score, and the options that follow from them."""
    from configs.load import load_config
    from trainer.batch.source_rows import SourceRows, read_part

    for name in ("users", "shard_rows"):
        if getattr(args, name) is not None:
            raise ConfigError(f"--{name}: the rows of a source have no use for it; remove it")
    if not args.config:
        raise ConfigError("--what rows: name the source with --config RUN.yaml")
    source = read_part(load_config(args.config, args.overrides).source, metadata["inputs"])
    return SourceRows(source), {"source": source}


def _no_list_options(args) -> dict:
    for name in ("k", "include_seen", "exclude", "include", "where"):
        if getattr(args, name):
            raise ConfigError(f"--{name}: is for lists of items; remove it, or use --what topk")
    return {}


def _list_options(args, metadata: dict) -> dict:
    k = 10 if args.k is None else args.k
    if not 1 <= k <= metadata["max_k"]:
        raise ConfigError(f"--k {k}: must be 1 to {metadata['max_k']}, the export.max_k of the model")
    wheres = map(named_values("--where"), args.where)
    request = Request(
        include=split_keys(args.include),
        exclude=split_keys(args.exclude),
        where={name: split_keys(value) for name, value in wheres},
    )
    check_request(request, metadata.get("inputs", {}), "the flags")
    return {
        "k": k,
        "exclude_seen": metadata["exclude_seen"] and not args.include_seen,
        "exclude": tuple(request.exclude),
        "include": tuple(request.include),
        "where": tuple((name, tuple(values)) for name, values in sorted(request.where.items())),
    }
