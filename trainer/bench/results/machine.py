"""What a benchmark ran on, as a text that is equal on equal machines."""

import platform

import psutil


def machine_text() -> str:
    """Processor, widest vectors, cores and memory of this machine."""
    name, vectors = platform.processor() or platform.machine(), ""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            lines = dict(line.split(":", 1) for line in file if ":" in line)
    except OSError:
        lines = {}
    for key, value in lines.items():
        if key.strip() == "model name":
            name = value.strip()
        if key.strip() == "flags":
            flags = value.split()
            vectors = next((each for each in ("avx512_bf16", "avx512f", "avx2") if each in flags), "")
    memory = round(psutil.virtual_memory().total / (1 << 30))
    return ", ".join(filter(None, [name, vectors, f"{psutil.cpu_count()} cores", f"{memory} GiB"]))
