"""What questions and dashboards cost over 13 months of rollups.

python -m benchmarks.questions fill --home FOLDER        fills a server of its own, or brings it up to now
python -m benchmarks.questions run  --home FOLDER        measures, alone and during ingest; writes results.json
python -m benchmarks.questions plot --home FOLDER        results.json -> tables and docs/images/*.svg
"""
