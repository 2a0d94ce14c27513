"""Measured rows, whoever measured them: what timings say, the rows of saved files, and their tables.

| module | what |
|---|---|
| ``statistics`` | quantiles, intervals, outliers |
| ``rows`` | reading the files; nothing in them is trusted |
| ``tables`` | text, Markdown, CSV |
"""
