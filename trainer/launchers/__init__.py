"""Launchers, by kind of the launch section."""

from trainer.launchers.base import Launcher
from trainer.launchers.cloud_tpu import CloudTpu
from trainer.launchers.kubernetes import Kubernetes
from trainer.launchers.local import Local

LAUNCHERS: dict[str, type[Launcher]] = {"local": Local, "cloud_tpu": CloudTpu, "kubernetes": Kubernetes}
