"""Output of benchmarks: tables, CSV files and pages, and figures that can be compared later."""
