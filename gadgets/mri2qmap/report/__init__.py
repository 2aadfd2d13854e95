"""The report of a run: a page and a sheet to look at before the maps are used."""

PAGE = "report.html"
SHEET = "report.png"
