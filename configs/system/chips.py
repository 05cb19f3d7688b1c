"""TPU chips of this machine, and what TensorFlow must be told where there are none."""

import collections
import glob
import os

_GOOGLE = "0x1ae0"  # PCI vendor, also of Google's network cards
_GENERATIONS = {
    "0x0027": "v2 or v3",
    "0x005e": "v4",
    "0x0062": "v5p",
    "0x0063": "v5e",
    "0x006f": "v6e",
}


def find_chips(root: str = "/") -> dict[str, int]:
    """Number of chips on the PCI bus, by generation; `root` is where /sys is."""
    kinds = collections.Counter()
    for device in glob.glob(os.path.join(root, "sys/bus/pci/devices/*")):
        kind = _GENERATIONS.get(_read(f"{device}/device"))
        if kind and _read(f"{device}/vendor") == _GOOGLE:
            kinds[kind] += 1
    return dict(kinds)


def device_files(root: str = "/") -> list[str]:
    """Files that chips may be opened by. Those of /dev/vfio may be other devices' too."""
    return glob.glob(os.path.join(root, "dev/accel[0-9]*")) or glob.glob(
        os.path.join(root, "dev/vfio/[0-9]*")
    )


def spare_metadata_server(root: str = "/") -> None:
    """Before TensorFlow is imported: keeps TensorFlow for TPUs from asking Google's metadata server.

    Where there are no chips there is no such server, and the import asks for minutes. Where there may be
    chips nothing is changed, whatever the run's device: libtpu learns from the server what slice it is in.
    """
    if not find_chips(root) and not device_files(root):
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except OSError:  # devices come and go
        return ""
