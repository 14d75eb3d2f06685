"""What the package costs, against a peer or a limit; `python -m bench` measures it in one run.

Every row compares two ways to do one thing in this process tree, turn by turn (A, B, A, B, …), so
that a machine that slows down slows both; the medians make the ratio. A row is a module with a
`run(settings) -> Row`; `registry` lists them. Only a whole run writes `bench/results.json`.
"""
