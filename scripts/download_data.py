#!/usr/bin/env python3
"""Fetch the official archives ahead of time, for machines whose jobs have no network.

    python scripts/download_data.py cifar10 cifar100 tiny_imagenet --root data

Unpacks into ROOT/cifar-10-batches-py, ROOT/cifar-100-python and ROOT/tiny-imagenet-200 (590 MB of downloads), checks
them and prints their fingerprints. A set that is already there is only checked.
"""

import argparse
import sys

from relinearize.data.cifar import CIFAR10, CIFAR100
from relinearize.data.tiny_imagenet import TinyImageNet
from relinearize.errors import UserError

SOURCES = {"cifar10": CIFAR10, "cifar100": CIFAR100, "tiny_imagenet": TinyImageNet}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", choices=SOURCES, help="the sets to fetch")
    parser.add_argument("--root", default="data", help="folder to unpack into (default: data)")
    options = parser.parse_args()
    failed = 0
    for name in options.sets:
        source = SOURCES[name](options.root, download=True)
        try:
            source.check()
            print(f"{name}: {source.path}, fingerprint {source.fingerprint()[:16]}")
        except UserError as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed += 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
