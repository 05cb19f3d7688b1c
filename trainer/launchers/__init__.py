"""Launchers, by kind of the launch section."""

from trainer.launchers.cloud_tpu import CloudTpu
from trainer.launchers.local import Local

LAUNCHERS = {"local": Local, "cloud_tpu": CloudTpu}
