"""`lazytower bench score`: the best items of many users, by `lazytower score` and by other libraries.

    scripts/peers.sh score                           all libraries, in a separate environment
    lazytower bench score --users 2048 --k 10        without implicit and faiss

All cases get the same vectors, around `--centres` points, and return the rows of the best items, best first.
lazytower is the compiled search of `score`, lazytower_graph what it does without a compiler. NumPy multiplies
blocks of 128 users and partitions their scores; TFRS's BruteForce gets the same blocks. implicit is
`recommend` of a model with these factors, faiss its IndexFlatIP; both get all users of a turn. What cannot be
imported shows '-' and the reason. product only multiplies the blocks, by NumPy's BLAS.

Cases take turns, `--turn` users at a time; one that has used `--seconds` stops, and `users` says how far it
came. x_ours is the median, over turns, of a case's time by lazytower's. GFLOP/s are those of the products
alone, and of_product is their ratio to those of product. same is the share of lazytower's items that a case
returns too.
"""

import argparse
import os
import time

import numpy as np
from absl import logging

from trainer.bench.cases.scored import OUR_SCORING, PRODUCT, SCORING_CASES, Case
from trainer.bench.timing import NotMeasured, first_line, positive, start_bench

_COLUMNS = (
    "by",
    "users",
    "users_per_s",
    "ms_per_user",
    "gflop_per_s",
    "of_product",
    "x_ours",
    "same",
    "reason",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the benchmark."""
    parser.add_argument("--users", type=positive, default=20_000, help="users to score")
    parser.add_argument("--turn", type=positive, default=2_048, help="users of a turn")
    parser.add_argument("--items", type=positive, default=100_000, help="items of the catalog")
    parser.add_argument("--dim", type=positive, default=32, help="width of a vector")
    parser.add_argument("--centres", type=positive, default=3_000, help="clusters of the vectors")
    parser.add_argument("--k", type=positive, default=100, help="items per user")
    parser.add_argument("--seconds", type=float, default=60, help="time limit per case")
    parser.add_argument("--cases", nargs="+", choices=list(SCORING_CASES), default=list(SCORING_CASES))
    parser.add_argument("--threads", type=int, default=0, help="threads of TensorFlow; 0: one per core")
    parser.add_argument(
        "--output", default="bench_results", metavar="DIR", help="output directory of score.csv"
    )


def run(args: argparse.Namespace) -> int:
    """Measures, prints the table, writes score.csv and score.html."""
    from trainer.bench.results.page import print_plain_table, write_plain_csv, write_tables

    rows = measure_scoring(args)
    print_plain_table(rows, _COLUMNS)
    write_plain_csv(os.path.join(args.output, "score.csv"), rows, _COLUMNS)
    path = os.path.join(args.output, "score.html")
    shown = [{name: row.get(name, "-") for name in _COLUMNS} for row in rows]
    title = f"Best {args.k} of {args.items:,} items x {args.dim}"
    write_tables(path, title, "lazytower bench score", {"Users": shown})
    print(f"written: {path} and score.csv beside it")
    return 0


def measure_scoring(args: argparse.Namespace) -> list[dict]:
    """Rows of _COLUMNS, one for every case; those without figures have a reason.

    Raises:
      UserError: k exceeds the catalog.
    """
    from configs.errors import UserError
    from trainer.bench.cases.retrieval import Data

    if args.k > args.items:
        raise UserError(f"--k {args.k}: exceeds the {args.items} items; lower --k or raise --items")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # idle threads of faiss do not slow the others down
    start_bench(args.threads)
    data = Data(args.items, args.dim, args.centres, args.users)
    cases: dict[str, Case] = {}
    reasons: dict[str, str] = {}
    for name in args.cases:
        try:
            cases[name] = SCORING_CASES[name](data.items, args.k)
            cases[name](data.users[: args.turn])  # traces, and starts threads
        except NotMeasured as reason:
            reasons[name] = str(reason)
        except Exception as error:  # a broken peer must not stop the others; its row gives the reason
            reasons[name] = first_line(error)
    times, same = _turns(data.users, {name: cases[name] for name in cases if name not in reasons}, args)
    pace = {
        name: 2e-9 * args.items * args.dim * _users(times[name], args) / sum(times[name]) for name in times
    }
    rows = []
    for name in args.cases:
        row = {"by": name, "reason": reasons.get(name, "")}
        if name in times:
            number = _users(times[name], args)
            row |= {
                "users": number,
                "users_per_s": round(number / sum(times[name])),
                "ms_per_user": f"{1000 * sum(times[name]) / number:.4f}",
                "gflop_per_s": f"{pace[name]:.1f}",
            }
            if PRODUCT in pace:
                row["of_product"] = f"{pace[name] / pace[PRODUCT]:.2f}"
            if OUR_SCORING in times:
                row["x_ours"] = f"{_ratio(times[name], times[OUR_SCORING]):.2f}"
            if same.get(name):
                row["same"] = f"{np.mean(same[name]):.5f}"
        rows.append(row)
    return rows


def _turns(users: np.ndarray, cases: dict[str, Case], args: argparse.Namespace) -> tuple[dict, dict]:
    """(seconds of the turns, shares of the first case's items), by case."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    same: dict[str, list[float]] = {name: [] for name in cases}
    for start in range(0, len(users), args.turn):
        block, first = users[start : start + args.turn], None
        for name, case in cases.items():
            if sum(times[name]) > args.seconds:
                continue
            started = time.perf_counter()
            found = case(block)
            times[name].append(time.perf_counter() - started)
            first = found if first is None else first
            if found is not None and first is not None:
                pairs = zip(found.tolist(), first.tolist(), strict=True)
                same[name].append(float(np.mean([len(set(f) & set(o)) / len(o) for f, o in pairs])))
        logging.info("%s of %s users", f"{start + len(block):,}", f"{len(users):,}")
    return times, same


def _users(times: list[float], args: argparse.Namespace) -> int:
    return min(len(times) * args.turn, args.users)


def _ratio(times: list[float], ours: list[float]) -> float:
    return float(np.median([one / other for one, other in zip(times, ours, strict=False)]))
