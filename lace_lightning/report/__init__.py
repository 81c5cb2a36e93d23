"""Reports: tables in text, CSV and Markdown, sweeps, recorded experiments."""
