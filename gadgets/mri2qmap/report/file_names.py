"""Names of the files of a report in the folder of a run."""

PAGE = "report.html"
SHEET = "report.png"
DOCUMENT = "report.pdf"
