"""Writes the generated files of this folder: `make dashboards`."""

from pathlib import Path

from metrics_pipeline.dashboards.provisioning import files

if __name__ == "__main__":
    for name, text in files().items():
        path = Path(__file__).parent / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
