"""`python -m dashboards` writes the JSON of every dashboard beside its code."""

from dashboards.written import files

for path, text in files().items():
    path.write_text(text)
