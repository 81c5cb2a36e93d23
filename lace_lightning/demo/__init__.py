"""A page with sliders: pictures by attribute and edits in a browser, from a small server of this program."""
