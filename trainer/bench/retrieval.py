"""`lazytower bench retrieval`: top-k items of a catalog, from the served model and from its peers.

    lazytower bench retrieval                                     a few minutes, 6 GiB of free memory
    lazytower bench retrieval --items 100000 --batches 1 32 --k 10 --cases brute_force tfrs_brute_force

brute_force and scann are `recommend` of the model that export writes, with each index: raw keys in, names of
items and scores out, the user's row gathered by the key's hash. brute_force_unseen leaves out 50 seen items
of each user; brute_force_where_1% asks for the items with a tag that 1 % have (others: 10 and 90 %). The
others get the user's vector and return rows: TFRS's BruteForce (one product, one top_k) and Streaming, NumPy
(a product and argpartition), and the Python API of the scann package, searching 1, 5 and 20 % of its leaves
and scoring 500 candidates exactly. scann needs that package: without it '-' is shown.

Vectors lie around `--centres` points, since approximate indexes fail on independent ones. recall is
the share of the exact best k that was returned. All cases take turns, request by request; one that has used
`--seconds` stops, `timed` says after how many requests. x_ours is the median over that of brute_force.
`--threads` are those of TensorFlow: NumPy and the scann package take all cores.
"""

import argparse
import os
import time

import numpy as np
from absl import logging

from trainer.bench.cases.retrieval import OUR_RETRIEVAL, RETRIEVAL_CASES, Data
from trainer.bench.timing import NotMeasured, need_memory, positive, start_bench

WARMUP_REQUESTS = 3
_COLUMNS = (
    *("batch", "k", "by", "p50_ms", "p99_ms", "queries_per_s", "timed", "recall", "index_MB", "x_ours"),
    "reason",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the benchmark."""
    parser.add_argument("--items", type=positive, default=1_000_000, help="items of the catalog")
    parser.add_argument("--dim", type=positive, default=64, help="width of a vector")
    parser.add_argument("--centres", type=positive, default=3_000, help="clusters of the vectors")
    parser.add_argument("--k", nargs="+", type=positive, default=[100], help="items per user to return")
    parser.add_argument(
        "--batches", nargs="+", type=positive, default=[1, 8, 32, 128], help="users per request"
    )
    parser.add_argument("--queries", type=positive, default=200, help="maximum timed requests per case")
    parser.add_argument("--seconds", type=float, default=20, help="time limit per case, batch and k")
    parser.add_argument("--cases", nargs="+", choices=list(RETRIEVAL_CASES), default=list(RETRIEVAL_CASES))
    parser.add_argument("--threads", type=int, default=0, help="threads of TensorFlow; 0: one per core")
    parser.add_argument(
        "--output", default="bench_results", metavar="DIR", help="output directory of retrieval.csv"
    )


def run(args: argparse.Namespace) -> int:
    """Measures, prints the table, writes retrieval.csv and retrieval.html."""
    from trainer.bench.results.page import print_plain_table, write_plain_csv, write_tables

    rows = measure_retrieval(args)
    print_plain_table(rows, _COLUMNS)
    write_plain_csv(os.path.join(args.output, "retrieval.csv"), rows, _COLUMNS)
    path = os.path.join(args.output, "retrieval.html")
    shown = [{name: row.get(name, "-") for name in _COLUMNS} for row in rows]
    title = f"Best of {args.items:,} items x {args.dim}"
    write_tables(path, title, "lazytower bench retrieval", {"Requests": shown})
    print(f"written: {path} and retrieval.csv beside it")
    return 0


def measure_retrieval(args: argparse.Namespace) -> list[dict]:
    """Rows of _COLUMNS, one for every batch, k and case; those without figures have a reason.

    Raises:
      UserError: k exceeds the catalog, or there is not enough memory.
    """
    from configs.errors import UserError

    if max(args.k) > args.items:
        raise UserError(f"--k {max(args.k)}: exceeds the {args.items} items; lower --k or raise --items")
    start_bench(args.threads)
    try:
        # Every case holds the vectors once; the largest batch has all its scores, and their order, at once.
        vectors, scores = 4 * args.items * args.dim, 4 * args.items * max(args.batches)
        need_memory((vectors * (len(args.cases) + 3) + 4 * scores) / 2**30)
    except NotMeasured as reason:
        raise UserError(f"{reason}: lower --items, --batches or --cases") from None
    data = Data(args.items, args.dim, args.centres)
    cases, reasons = _made(data, args.cases)
    rows = []
    for batch in args.batches:
        for k in args.k:
            found = _figures(data, cases, batch, k, args)
            for name in args.cases:
                known = {"batch": batch, "k": k, "by": name, "reason": reasons.get(name, "")}
                rows.append(known | found.get(name, {}))
    return rows


def _made(data: Data, names: list[str]) -> tuple[dict, dict[str, str]]:
    """(cases by name, why the others are missing)."""
    cases, reasons = {}, {}
    for name in names:
        started = time.perf_counter()
        try:
            cases[name] = RETRIEVAL_CASES[name](data)
        except Exception as error:  # a broken peer must not stop the others; its row gives the reason
            reasons[name] = str(error).splitlines()[0][:160]
            continue
        logging.info("%s: made in %.1f s", name, time.perf_counter() - started)
    return cases, reasons


def _figures(data: Data, cases: dict, batch: int, k: int, args: argparse.Namespace) -> dict[str, dict]:
    """Figures by case, which take turns."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    shares: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(WARMUP_REQUESTS + args.queries):
        for name, case in cases.items():
            if times[name] and sum(times[name]) > args.seconds:
                continue
            request = data.request(number, batch, k)
            started = time.perf_counter()
            answer = case.ask(request)
            seconds = time.perf_counter() - started
            if number >= WARMUP_REQUESTS:
                times[name].append(seconds)
            if len(shares[name]) < len(data.users):
                exact = data.exact(k, name.endswith("_unseen"), name.partition("_where_")[2])
                shares[name] += _shares(case.rows(answer), [exact[user] for user in request.users])
    found = {name: _summary(times[name], shares[name], batch, cases[name].num_bytes) for name in cases}
    if OUR_RETRIEVAL in found:
        ours = np.median(times[OUR_RETRIEVAL])
        for name in found:
            found[name]["x_ours"] = f"{np.median(times[name]) / ours:.2f}"
    logging.info("batch %d, k %d: measured", batch, k)
    return found


def _shares(rows: np.ndarray, exact: list[set]) -> list[float]:
    return [len(set(r.tolist()) & best) / len(best) for r, best in zip(rows, exact, strict=True)]


def _summary(times: list[float], shares: list[float], batch: int, num_bytes: int) -> dict[str, str | int]:
    """Figures as text, rounded to their meaningful digits."""
    p50, p99 = 1000 * np.percentile(times, [50, 99])
    return {
        "p50_ms": f"{p50:.2f}",
        "p99_ms": f"{p99:.2f}",
        "queries_per_s": f"{batch * len(times) / sum(times):.0f}",
        "timed": len(times),
        "recall": f"{np.mean(shares):.4f}",
        "index_MB": f"{num_bytes / 1e6:.0f}",
    }
