"""TPU chips of this machine, and the setting that TensorFlow needs if there are none."""

import collections
import glob
import os

_GOOGLE = "0x1ae0"  # PCI vendor id, shared with Google's network cards
_GENERATIONS = {
    "0x0027": "v2 or v3",
    "0x005e": "v4",
    "0x0062": "v5p",
    "0x0063": "v5e",
    "0x006f": "v6e",
}


def find_chips(root: str = "/") -> dict[str, int]:
    """Number of chips on the PCI bus, by generation; `root` is the directory that contains /sys."""
    kinds: collections.Counter[str] = collections.Counter()
    for device in glob.glob(os.path.join(root, "sys/bus/pci/devices/*")):
        kind = _GENERATIONS.get(_read(f"{device}/device"))
        if kind and _read(f"{device}/vendor") == _GOOGLE:
            kinds[kind] += 1
    return dict(kinds)


def device_files(root: str = "/") -> list[str]:
    """Device files of chips. Those in /dev/vfio may belong to other devices."""
    return glob.glob(os.path.join(root, "dev/accel[0-9]*")) or glob.glob(
        os.path.join(root, "dev/vfio/[0-9]*")
    )


def spare_metadata_server(root: str = "/") -> None:
    """Keeps TensorFlow for TPUs from querying Google's metadata server; call it before importing TensorFlow.

    Without chips there is no such server, and the import would retry for minutes. If there may be chips
    nothing is changed, whatever the run's device: libtpu learns from the server which slice it is in.
    """
    if not find_chips(root) and not device_files(root):
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except OSError:  # devices come and go
        return ""
