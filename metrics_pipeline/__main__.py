"""`python -m metrics_pipeline` is the command line."""

from metrics_pipeline.cli import main

if __name__ == "__main__":
    main()
