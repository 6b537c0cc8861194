"""`python -m relinearize`."""

from relinearize.cli import main

if __name__ == "__main__":
    main()
