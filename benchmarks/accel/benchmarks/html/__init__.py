"""``report.html``: one file with style, script and charts inside; ``page.render`` is its door."""
