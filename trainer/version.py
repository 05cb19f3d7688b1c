"""The version of lazytower: `lazytower --version`, doctor, exports and setup.py, which reads this file."""

VERSION = "0.1.0"
