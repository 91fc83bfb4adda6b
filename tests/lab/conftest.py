"""Tests in this folder run on real hosts of a lab."""

from scenarios.lab.fixtures import lab

__all__ = ["lab"]
