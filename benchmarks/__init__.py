"""Measurements beside peers."""

from ml.spin import wait_patiently

wait_patiently()  # some benchmarks import torch before anything of ours
