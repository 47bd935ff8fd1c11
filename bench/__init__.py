"""`make bench`: our broker and a peer under the same load, in turns, on the same machine.

`stompload.py` makes the load and knows neither of them; `brokers.py` starts them in temporary folders; `scenarios.py`
is the list of loads; `__main__.py` runs them and prints the table. Nothing else of the project imports from here.
"""
