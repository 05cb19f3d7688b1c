"""`lazytower worker`: serves one host of a cluster; see docs/cluster.md."""

import argparse

from configs.arguments import add_override_argument
from configs.errors import ConfigError
from configs.load import load_config
from configs.sections.devices import ClusterDeviceConfig
from configs.system.tf_config import ClusterTask, task_of_environment
from trainer.runtime import end_process, start_tensorflow


def add_arguments(parser) -> None:
    """Flags of the sub-command."""
    parser.add_argument(
        "--config", metavar="RUN.yaml", help="the run's configuration; without it, TF_CONFIG has the hosts"
    )
    add_override_argument(parser)
    parser.add_argument(
        "--task", type=_index, metavar="N", help="which of device.hosts this is, from 1; default: TF_CONFIG"
    )


def _index(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not the number of a host")
    return int(text)


def run(args) -> int:
    """Serves drivers until SIGTERM or SIGINT, which end it with exit code 0."""
    device, task = task_of(args)
    start_tensorflow(device)
    from trainer.cluster.worker import serve

    serve(task, device.threads)
    end_process(0)
    return 0


def task_of(args) -> tuple[ClusterDeviceConfig, ClusterTask]:
    """The device section and this host's place, from the flags and TF_CONFIG.

    Raises:
      ConfigError: they do not say it, or it is host 0, which runs `lazytower train`.
    """
    if args.config is None:
        if args.overrides:
            raise ConfigError("--set: overrides keys of a config; add --config")
        device = ClusterDeviceConfig.model_validate({"kind": "cluster", "from": "TF_CONFIG"})
    else:
        found = load_config(args.config, args.overrides).device
        if not isinstance(found, ClusterDeviceConfig):
            raise ConfigError(
                f"{args.config}: device.kind is {found.kind}; a worker needs device.kind: cluster"
            )
        device = found
    addresses = device.addresses()
    if args.task is not None:
        index = args.task
    elif device.hosts is None:
        index = task_of_environment().index
    else:
        raise ConfigError("--task: missing; set it to this host's place in device.hosts, from 1")
    if index >= len(addresses):
        raise ConfigError(f"--task: {index} is not a host; device.hosts has 0..{len(addresses) - 1}")
    if index == 0:
        raise ConfigError("--task: host 0 is the driver; run `lazytower train` there, and workers from 1 on")
    return device, ClusterTask(tuple(addresses), index)
